/**
 * How a hand writes the ten digits: the designs behind the synthetic data set.
 * A glyph is a list of strokes, a stroke a list of points that a smooth curve
 * passes through. Units: about 60 wide and 100 high, x to the right, y down.
 * The numbers are part of the bits of every run on synthetic data.
 *
 * @module
 */

export interface GlyphPoint {
  readonly x: number;
  readonly y: number;
  /** The curve breaks its direction here. */
  readonly corner: boolean;
}
export type Stroke = readonly GlyphPoint[];
/** One way to write a digit. */
export type Glyph = readonly Stroke[];

/** @param strokes Points as `x,y`, or `x,y!` for a corner, between spaces. */
function glyph(...strokes: string[]): Glyph {
  return strokes.map((stroke) =>
    stroke.split(" ").map((point) => {
      const [x, y] = point.replace("!", "").split(",").map(Number);
      return { x, y, corner: point.endsWith("!") };
    }),
  );
}

const ROUND_ZERO = glyph("36,1 18,7 5,28 2,54 9,82 26,99 44,94 57,74 60,44 53,17 36,1 24,4");
const OPEN_ZERO = glyph("30,8 14,18 4,44 6,74 20,96 38,98 54,78 58,46 50,16 32,2 16,8");

const BAR_ONE = glyph("31,0 30,50 29,100");
const FLAG_ONE = glyph("12,24 24,12 33,0! 32,50 31,100");
const FOOT_ONE = glyph("14,20 24,11 32,0! 31,50 31,98", "10,99 31,98 53,97");

const PLAIN_TWO = glyph("5,24 13,7 31,0 50,8 55,27 45,50 25,74 3,97! 32,96 62,95");
const LOOPED_TWO = glyph("6,20 18,4 38,1 53,14 52,36 38,60 20,84 8,95 1,88 9,78 24,82 42,96 62,92");

const ROUND_THREE = glyph("6,13 22,1 42,3 52,18 44,37 24,46! 45,51 58,69 52,90 30,100 3,90");
const FLAT_THREE = glyph("5,3 27,2 51,2! 38,20 25,40! 46,46 57,66 50,89 27,100 2,90");

const OPEN_FOUR = glyph("9,3 5,28 4,51! 32,52 61,47", "50,0 47,50 43,100");
const CLOSED_FOUR = glyph("43,0 23,31 1,64! 32,63 63,61", "43,0 43,50 42,100");
const CURVED_FOUR = glyph("8,4 3,26 9,46 29,51 51,38 57,2! 52,50 46,100");

const HOOKED_FIVE = glyph("56,2 34,3 13,4! 10,22 8,43! 28,36 48,45 56,66 47,89 24,100 1,92");
const BARRED_FIVE = glyph("14,5 11,26 10,44! 32,41 50,54 53,76 40,96 18,100 2,91", "14,5 36,4 61,0");

const CURLED_SIX = glyph("46,0 26,14 10,42 3,72 13,95 34,99 51,84 50,63 33,53 15,62 6,80");
const STRAIGHT_SIX = glyph("32,0 16,30 6,60 7,85 24,100 45,94 54,76 44,58 26,56 11,70");

const PLAIN_SEVEN = glyph("2,8 30,6 58,3! 42,46 27,100");
const BENT_SEVEN = glyph("3,22 6,6! 32,6 57,4! 43,34 32,66 28,100");
const CROSSED_SEVEN = glyph("3,7 30,6 58,3! 43,44 26,100", "17,53 36,50 56,47");

const WOVEN_EIGHT = glyph(
  "51,10 33,0 13,6 9,23 25,40 45,55 55,76 44,96 23,100 5,86 9,65 28,48 46,33 54,15 46,4",
);
const STACKED_EIGHT = glyph(
  "32,46 14,36 13,14 30,1 48,12 47,34 31,46 14,53",
  "32,46 13,57 5,79 20,98 42,97 56,78 49,56 29,46",
);

const STRAIGHT_NINE = glyph("52,15 35,1 15,7 5,27 13,46 33,46 49,30 53,11! 51,55 46,100");
const CURLED_NINE = glyph("52,18 37,2 17,5 5,24 12,45 32,47 48,33 53,14! 54,50 48,80 30,99 8,93");

/** Indexed by digit; a design listed twice is drawn twice as often. */
export const DIGIT_GLYPHS: readonly (readonly Glyph[])[] = [
  [ROUND_ZERO, OPEN_ZERO],
  [BAR_ONE, BAR_ONE, BAR_ONE, FLAG_ONE, FLAG_ONE, FOOT_ONE],
  [PLAIN_TWO, PLAIN_TWO, LOOPED_TWO],
  [ROUND_THREE, ROUND_THREE, FLAT_THREE],
  [OPEN_FOUR, CLOSED_FOUR, CURVED_FOUR],
  [HOOKED_FIVE, BARRED_FIVE],
  [CURLED_SIX, STRAIGHT_SIX],
  [PLAIN_SEVEN, PLAIN_SEVEN, BENT_SEVEN, CROSSED_SEVEN],
  [WOVEN_EIGHT, WOVEN_EIGHT, STACKED_EIGHT],
  [STRAIGHT_NINE, CURLED_NINE],
];
