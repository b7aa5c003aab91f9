/**
 * Thrown out of every wait of a generation that is over, because its members
 * changed. What was applied stays applied; the next generation goes on from there.
 *
 * @module
 */
export class Interrupted extends Error {
  override name = "Interrupted";

  constructor() {
    super("The generation is over");
  }
}
