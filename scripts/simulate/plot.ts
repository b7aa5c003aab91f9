/**
 * Line plots as SVG: both axes logarithmic, one panel beside the other.
 *
 * @module
 */
export interface Series {
  readonly name: string;
  /** CSS colour. */
  readonly colour: string;
  readonly dashed: boolean;
  /** (x, y), both > 0, by rising x. */
  readonly points: readonly (readonly [number, number])[];
}

export interface Panel {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly Series[];
}

const WIDTH = 460;
const HEIGHT = 340;
const MARGIN = { left: 88, right: 16, top: 36, bottom: 48 } as const;

export function plot(panels: readonly Panel[]): string {
  const width = WIDTH * panels.length;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${HEIGHT}" width="${width}" height="${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    ...panels.map((panel, i) => `<g transform="translate(${i * WIDTH} 0)">\n${drawPanel(panel)}\n</g>`),
    "</svg>",
    "",
  ].join("\n");
}

function drawPanel({ title, xLabel, yLabel, series }: Panel): string {
  const points = series.flatMap((s) => s.points);
  const x = axis(
    points.map(([value]) => value),
    2,
    MARGIN.left,
    WIDTH - MARGIN.right,
  );
  const y = axis(
    points.map(([, value]) => value),
    10,
    HEIGHT - MARGIN.bottom,
    MARGIN.top,
  );
  const middle = (MARGIN.top + HEIGHT - MARGIN.bottom) / 2;
  return [
    text(WIDTH / 2, 20, title, "middle", 'font-weight="bold"'),
    ...x.ticks.map((value) =>
      gridLine(x.at(value), HEIGHT - MARGIN.bottom, x.at(value), MARGIN.top).concat(
        text(x.at(value), HEIGHT - MARGIN.bottom + 16, String(value), "middle"),
      ),
    ),
    ...y.ticks.map((value) =>
      gridLine(MARGIN.left, y.at(value), WIDTH - MARGIN.right, y.at(value)).concat(
        text(MARGIN.left - 6, y.at(value) + 4, value.toLocaleString("en-US"), "end"),
      ),
    ),
    text(WIDTH / 2, HEIGHT - 10, xLabel, "middle"),
    text(16, middle, yLabel, "middle", `transform="rotate(-90 16 ${middle})"`),
    ...series.map(({ colour, dashed, points: line }) => {
      const path = line.map(([px, py]) => `${x.at(px).toFixed(1)},${y.at(py).toFixed(1)}`).join(" ");
      return `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"${dashed ? ' stroke-dasharray="5 4"' : ""}/>`;
    }),
    ...series.map(({ name, colour }, i) =>
      text(MARGIN.left + 10, MARGIN.top + 16 + 16 * i, name, "start", `fill="${colour}"`),
    ),
  ].join("\n");
}

/** A logarithmic axis over all values, from one power of the base to another. */
function axis(values: readonly number[], base: number, from: number, to: number) {
  const exponent = (value: number): number => Math.log(value) / Math.log(base);
  const first = Math.floor(exponent(Math.min(...values)) + 1e-9);
  const last = Math.max(first + 1, Math.ceil(exponent(Math.max(...values)) - 1e-9));
  return {
    ticks: Array.from({ length: last - first + 1 }, (_, i) => base ** (first + i)),
    at: (value: number): number => from + ((exponent(value) - first) / (last - first)) * (to - from),
  };
}

function gridLine(x1: number, y1: number, x2: number, y2: number): string {
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="#dddddd"/>`;
}

function text(x: number, y: number, content: string, anchor: string, more = ""): string {
  const escaped = content.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" ${more}>${escaped}</text>`;
}
