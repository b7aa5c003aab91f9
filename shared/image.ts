/**
 * The images that every data set and model here has: grey, 28 x 28, as MNIST.
 *
 * @module
 */

/** Height and width in pixels. */
export const IMAGE_SIDE = 28;
/** Pixels per image. */
export const IMAGE_PIXELS = IMAGE_SIDE * IMAGE_SIDE;
