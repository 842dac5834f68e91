"""``python -m patchword`` is ``patchword``."""

from patchword.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
