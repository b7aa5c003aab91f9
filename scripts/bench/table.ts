/**
 * A section as a Markdown table, so that it can be pasted into LOG.md.
 *
 * @module
 */
import type { Cell, SectionReport } from "./section.ts";
import type { Summary } from "./statistics.ts";

export function markdownOf({ title, notes, columns, rows }: SectionReport): string {
  const lines = [[...columns], ...rows.map(({ name, cells }) => [name, ...cells.map(textOf)])];
  const widths = columns.map((_, column) => Math.max(3, ...lines.map((line) => line[column].length)));
  // Names to the left, numbers to the right.
  const pad = (text: string, column: number): string =>
    column === 0 ? text.padEnd(widths[column]) : text.padStart(widths[column]);
  const [header, ...body] = lines.map((line) => `| ${line.map(pad).join(" | ")} |`);
  const dashes = widths.map((width, column) => "-".repeat(width - 1) + (column === 0 ? "-" : ":"));
  const rule = `| ${dashes.join(" | ")} |`;
  return [`### ${title}`, "", header, rule, ...body, "", ...notes.map((note) => `- ${note}`)].join("\n");
}

function textOf(cell: Cell): string {
  if (cell === null) return "-";
  if (typeof cell === "string") return cell;
  if (typeof cell === "number") return digits(cell);
  return describeSummary(cell);
}

/** "median (min-max)", or the value alone if there is no spread. */
function describeSummary({ median, min, max }: Summary): string {
  return min === max ? digits(median) : `${digits(median)} (${digits(min)}-${digits(max)})`;
}

/** Three significant digits; all digits of whole parts. */
function digits(value: number): string {
  const magnitude = Math.abs(value);
  return value.toFixed(magnitude >= 100 ? 0 : magnitude >= 10 ? 1 : 2);
}
