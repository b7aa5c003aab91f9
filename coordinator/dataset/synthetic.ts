/**
 * Digits that the product draws itself, so that a first run needs no download:
 * hand-designed strokes under a random slant, scale, thickness and jitter,
 * fitted like MNIST: ink in a box of about 20x20 pixels, its centre of mass in
 * the middle of a 28x28 field.
 *
 * Only + - * / sqrt and integer operations are used and every number is drawn
 * by counter, so image i is the same bytes on every JavaScript engine, however
 * many images are asked for.
 *
 * @module
 */
import { streamKey, threefry4x32 } from "../../shared/random.ts";
import type { StreamKey } from "../../shared/random.ts";
import { DIGIT_GLYPHS } from "./digit-glyphs.ts";
import type { Stroke } from "./digit-glyphs.ts";
import { IMAGE_PIXELS, IMAGE_SIDE } from "../../shared/image.ts";

/** Straight pieces between two points of a stroke. */
const PIECES_PER_SPAN = 5;
/** A corner-free stroke passes each point in the direction of its neighbours, this much of their difference. */
const TANGENT = 0.58;
/** Pixels over which the edge of the ink falls from full to none. */
const EDGE_WIDTH = 1.4;
/** Ink keeps this many pixels away from the edge of the field. */
const MARGIN = 1.5;

/** The random numbers of one image, in the order of drawing. */
class ImageDraws {
  private readonly words = new Uint32Array(4);
  private numDrawn = 0;
  private imageIndex = 0;
  private readonly key: StreamKey;

  constructor(key: StreamKey) {
    this.key = key;
  }

  startImage(imageIndex: number): void {
    this.imageIndex = imageIndex;
    this.numDrawn = 0;
  }

  private word(): number {
    const slot = this.numDrawn & 3;
    if (slot === 0) threefry4x32(this.key, this.imageIndex, this.numDrawn >>> 2, 0, 0, this.words);
    this.numDrawn++;
    return this.words[slot];
  }

  /** Uniform integer in 0..length-1. The bias is below length / 2^32. */
  below(length: number): number {
    return Math.floor((this.word() / 2 ** 32) * length);
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    return low + (this.word() / 2 ** 32) * (high - low);
  }

  /** Triangular in (-spread, spread): most draws are small. */
  around(spread: number): number {
    return (this.word() / 2 ** 32 - this.word() / 2 ** 32) * spread;
  }
}

/** Ink of one image as a chain of straight pieces, reused from image to image; grows as needed. */
interface Pieces {
  count: number;
  /** Ends of each piece: x0, y0, x1, y1. */
  ends: Float64Array;
  /** Factor of the pen's radius at each piece. */
  pressure: Float64Array;
}

function emptyPieces(): Pieces {
  const numPoints = Math.max(...DIGIT_GLYPHS.flat().map((glyph) => glyph.flat().length));
  const capacity = numPoints * PIECES_PER_SPAN;
  return { count: 0, ends: new Float64Array(4 * capacity), pressure: new Float64Array(capacity) };
}

/** How the hand was held for one image: the map from the units of a glyph to a slanted, turned, stretched shape. */
interface Hand {
  readonly slant: number;
  readonly turn: number;
  readonly stretch: number;
  /** Bend of the whole shape: vertical lines become parabolas. */
  readonly bend: number;
  /** Standard reach of the jitter of a point, in glyph units. */
  readonly jitter: number;
}

/** Appends the pieces of one stroke: a cubic Hermite curve through its jittered points. */
function traceStroke(stroke: Stroke, hand: Hand, draws: ImageDraws, pieces: Pieces): void {
  const xs: number[] = [];
  const ys: number[] = [];
  for (const point of stroke) {
    const x = (point.x - 30 + draws.around(hand.jitter)) * hand.stretch;
    const y = point.y - 50 + draws.around(hand.jitter);
    xs.push(x - hand.slant * y + hand.bend * (y * y - 1250) * 0.02);
    ys.push(y + hand.turn * x);
  }
  const pressureStart = draws.between(0.85, 1.15);
  const pressureEnd = draws.between(0.85, 1.15);
  const last = stroke.length - 1;
  for (let i = 0; i < last; i++) {
    const spanX = xs[i + 1] - xs[i];
    const spanY = ys[i + 1] - ys[i];
    const smoothStart = i > 0 && !stroke[i].corner;
    const smoothEnd = i + 1 < last && !stroke[i + 1].corner;
    // Where a curve starts, ends or breaks, it heads straight for the next point.
    const startX = smoothStart ? TANGENT * (xs[i + 1] - xs[i - 1]) : spanX;
    const startY = smoothStart ? TANGENT * (ys[i + 1] - ys[i - 1]) : spanY;
    const endX = smoothEnd ? TANGENT * (xs[i + 2] - xs[i]) : spanX;
    const endY = smoothEnd ? TANGENT * (ys[i + 2] - ys[i]) : spanY;
    let fromX = xs[i];
    let fromY = ys[i];
    for (let piece = 1; piece <= PIECES_PER_SPAN; piece++) {
      const t = piece / PIECES_PER_SPAN;
      const s = 1 - t;
      const toX = xs[i] + t * t * (1 + 2 * s) * spanX + t * s * s * startX - t * t * s * endX;
      const toY = ys[i] + t * t * (1 + 2 * s) * spanY + t * s * s * startY - t * t * s * endY;
      const at = 4 * pieces.count;
      pieces.ends[at] = fromX;
      pieces.ends[at + 1] = fromY;
      pieces.ends[at + 2] = toX;
      pieces.ends[at + 3] = toY;
      pieces.pressure[pieces.count] = pressureStart + ((pressureEnd - pressureStart) * (i + t)) / last;
      pieces.count++;
      fromX = toX;
      fromY = toY;
    }
  }
}

/** Scales the pieces so that the ink is `inkSide` pixels at its longer side, and centres its mass as MNIST does. */
function fitIntoField(pieces: Pieces, inkSide: number, radius: number, shiftX: number, shiftY: number): void {
  const { count, ends } = pieces;
  let minX = Infinity;
  let minY = Infinity;
  let maxX = -Infinity;
  let maxY = -Infinity;
  let massX = 0;
  let massY = 0;
  let mass = 0;
  for (let at = 0; at < 4 * count; at += 4) {
    const dx = ends[at + 2] - ends[at];
    const dy = ends[at + 3] - ends[at + 1];
    const length = Math.sqrt(dx * dx + dy * dy);
    mass += length;
    massX += (length * (ends[at] + ends[at + 2])) / 2;
    massY += (length * (ends[at + 1] + ends[at + 3])) / 2;
    minX = Math.min(minX, ends[at], ends[at + 2]);
    maxX = Math.max(maxX, ends[at], ends[at + 2]);
    minY = Math.min(minY, ends[at + 1], ends[at + 3]);
    maxY = Math.max(maxY, ends[at + 1], ends[at + 3]);
  }
  const scale = (inkSide - 2 * radius) / Math.max(maxX - minX, maxY - minY);
  const reach = radius * 1.15 + MARGIN;
  // The wish of the centre of mass yields to the edge of the field.
  const offset = (centre: number, min: number, max: number, shift: number): number =>
    Math.min(
      Math.max(IMAGE_SIDE / 2 + shift - (centre / mass) * scale, reach - min * scale),
      IMAGE_SIDE - reach - max * scale,
    );
  const offsetX = offset(massX, minX, maxX, shiftX);
  const offsetY = offset(massY, minY, maxY, shiftY);
  for (let at = 0; at < 4 * count; at += 2) {
    ends[at] = ends[at] * scale + offsetX;
    ends[at + 1] = ends[at + 1] * scale + offsetY;
  }
}

/** Draws the pieces into one image: the coverage of a pixel is that of the piece that covers it most. */
function rasterize(pieces: Pieces, radius: number, coverage: Float64Array): void {
  coverage.fill(0);
  const { count, ends } = pieces;
  for (let piece = 0; piece < count; piece++) {
    const x0 = ends[4 * piece];
    const y0 = ends[4 * piece + 1];
    const dx = ends[4 * piece + 2] - x0;
    const dy = ends[4 * piece + 3] - y0;
    const lengthSquared = dx * dx + dy * dy;
    const reach = radius * pieces.pressure[piece] + EDGE_WIDTH / 2;
    const reachSquared = reach * reach;
    const left = Math.max(0, Math.floor(Math.min(x0, x0 + dx) - reach));
    const right = Math.min(IMAGE_SIDE - 1, Math.floor(Math.max(x0, x0 + dx) + reach));
    const top = Math.max(0, Math.floor(Math.min(y0, y0 + dy) - reach));
    const bottom = Math.min(IMAGE_SIDE - 1, Math.floor(Math.max(y0, y0 + dy) + reach));
    for (let row = top; row <= bottom; row++) {
      const py = row + 0.5 - y0;
      for (let column = left; column <= right; column++) {
        const px = column + 0.5 - x0;
        const along = px * dx + py * dy;
        // The nearest point of the piece; a piece of no length is its start.
        const t = along <= 0 ? 0 : along >= lengthSquared ? 1 : along / lengthSquared;
        const ex = px - t * dx;
        const ey = py - t * dy;
        const distanceSquared = ex * ex + ey * ey;
        if (distanceSquared >= reachSquared) continue;
        const covered = (reach - Math.sqrt(distanceSquared)) / EDGE_WIDTH;
        const at = row * IMAGE_SIDE + column;
        if (covered > coverage[at]) coverage[at] = covered;
      }
    }
  }
}

/**
 * Draws `count` digits.
 *
 * @param seed Integer in 0..2^53-1.
 * @param count Integer in 0..2^32-1.
 * @returns pixels (count, 784), row-major, 0 = background, 255 = ink; labels (count,), 0..9.
 * @throws {RangeError} If seed or count is not such an integer.
 */
export function syntheticDigits(options: { readonly seed: number; readonly count: number }): {
  pixels: Uint8Array;
  labels: Uint8Array;
} {
  const { seed, count } = options;
  if (count >>> 0 !== count) {
    throw new RangeError(`Cannot draw digits as count must be an integer in 0..2^32-1: got ${count}`);
  }
  const draws = new ImageDraws(streamKey(seed, "syntheticDigits"));
  const pixels = new Uint8Array(count * IMAGE_PIXELS);
  const labels = new Uint8Array(count);
  const pieces = emptyPieces();
  const coverage = new Float64Array(IMAGE_PIXELS);
  for (let image = 0; image < count; image++) {
    draws.startImage(image);
    const label = draws.below(10);
    const glyphs = DIGIT_GLYPHS[label];
    const glyph = glyphs[draws.below(glyphs.length)];
    const hand: Hand = {
      slant: 0.14 + draws.around(0.45),
      turn: draws.around(0.16),
      stretch: draws.between(0.85, 1.5),
      bend: draws.around(0.12),
      jitter: draws.between(2, 7.5),
    };
    const radius = draws.between(0.75, 1.7);
    const inkSide = draws.between(18.5, 20.5);
    const shiftX = draws.around(1);
    const shiftY = draws.around(1);
    pieces.count = 0;
    for (const stroke of glyph) traceStroke(stroke, hand, draws, pieces);
    fitIntoField(pieces, inkSide, radius, shiftX, shiftY);
    rasterize(pieces, radius, coverage);
    const at = image * IMAGE_PIXELS;
    for (let i = 0; i < IMAGE_PIXELS; i++) pixels[at + i] = Math.floor(Math.min(1, coverage[i]) * 255 + 0.5);
    labels[image] = label;
  }
  return { pixels, labels };
}
