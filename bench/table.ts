/** Rows as a Markdown table, padded so that it reads well in a terminal too. */
export function tableOf(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((cell, column) => Math.max(cell.length, ...rows.map((row) => row[column].length)))
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |\n`
  return [line(head), `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|\n`, ...rows.map(line)].join('')
}
