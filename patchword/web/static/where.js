// From the fields of the filter form to one expression of the service's small language, such as
// width >= 1000 and taken < '2024-06-01' and camera = 'X100'.

const DATES = ["taken", "modified"]; // texts in ISO form, which compare like dates
const RARE = ["id", "root", "orientation", "latitude", "longitude"]; // for the expression only
const WORDS = ["and", "or", "not", "in", "like", "is", "null", "between"]; // of the language

/** Kind of a column for the form: "number", "date", "text", or null for one that has no field. */
export function kindOf(name, type) {
  if (RARE.includes(name)) return null;
  if (DATES.includes(name)) return "date";
  return type === "integer" || type === "real" ? "number" : "text";
}

/** A column as the language wants it: in double quotes when it is more than letters and digits. */
export function named(column) {
  const isPlain = /^[A-Za-z_][A-Za-z0-9_]*$/.test(column) && !WORDS.includes(column.toLowerCase());
  return isPlain ? column : `"${column.replaceAll('"', '""')}"`;
}

/** A text of the language: in quotes, inner quotes doubled. */
export function quoted(text) {
  return `'${text.replaceAll("'", "''")}'`;
}

/** The day after an ISO date, so that "until" holds its whole day; of the last year of four digits, that day's end. */
export function dayAfter(date) {
  const day = new Date(`${date}T00:00:00Z`);
  day.setUTCDate(day.getUTCDate() + 1);
  return day.getUTCFullYear() > 9999 ? `${date}T24:00` : day.toISOString().slice(0, 10);
}

/** One condition. `column` comes from /info. `how` is min, max, from, until, is or has. */
export function condition(column, how, value) {
  const name = named(column);
  const forms = {
    min: () => `${name} >= ${Number(value)}`,
    max: () => `${name} <= ${Number(value)}`,
    from: () => `${name} >= ${quoted(value)}`,
    until: () => `${name} < ${quoted(dayAfter(value))}`,
    is: () => `${name} = ${quoted(value)}`,
    has: () => `${name} like ${quoted(`%${value}%`)}`,
  };
  return forms[how]();
}

/** One condition in words, for its chip. */
export function conditionText(column, how, value) {
  const signs = { min: "≥", max: "≤", from: "from", until: "until", is: "is", has: "contains" };
  return `${column} ${signs[how]} ${value}`;
}

/** The whole expression: fields and hand-written part joined; null when there is none. */
export function expression(filters, raw) {
  const conditions = filters.map((filter) => condition(filter.column, filter.how, filter.value));
  const own = raw.trim();
  if (own) conditions.push(conditions.length ? `(${own})` : own);
  return conditions.length ? conditions.join(" and ") : null;
}
