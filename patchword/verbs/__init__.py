"""The verbs of the command line: parse, call the public function of the same name, print. No work is done here."""
