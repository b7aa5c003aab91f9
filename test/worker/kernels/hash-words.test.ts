import t from "tap";
import { hashWords } from "../../../worker/kernels/hash-words.ts";
import { loadBuilds } from "./arena.ts";

const [{ arena, kernels }] = await loadBuilds();

const words = (pointer: number, n: number): Uint32Array => new Uint32Array(arena.memory.buffer, pointer, n);

/** Changes when the algorithm does; then old run logs no longer compare. */
const FIXED = "9a291d85abbcf8e3";

t.test("hashWords() has a fixed value, the same in WebAssembly and TypeScript", (t) => {
  for (const n of [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 48, 1000, 4099]) {
    const x = arena.random(n);
    const hash = hashWords(words(x, n));
    t.equal(kernels.hashWords(n, x), hash, `n ${n}`);
    t.match(hash, /^[0-9a-f]{16}$/);
    t.ok(arena.reset());
  }
  t.equal(hashWords(Uint32Array.of(1, 2, 3)), FIXED);
  t.end();
});

t.test("hashWords() sees any changed word, swapped words, and the length", (t) => {
  const n = 70;
  const x = arena.random(n);
  const view = words(x, n);
  const base = kernels.hashWords(n, x);
  const hashes = new Set([base]);
  let changes = 1;
  const changed = (): void => {
    hashes.add(kernels.hashWords(n, x));
    changes += 1;
  };
  for (let i = 0; i < n; i++) {
    for (let bit = 0; bit < 32; bit++) {
      view[i] ^= 1 << bit;
      changed();
      view[i] ^= 1 << bit;
    }
  }
  // Two flipped signs, which a plain multiply-xor hash does not see in one lane.
  for (let i = 0; i < n; i++) {
    for (let j = i + 1; j < n; j++) {
      view[i] ^= 0x80000000;
      view[j] ^= 0x80000000;
      if (kernels.hashWords(n, x) === base) t.fail(`missed two flipped signs, at ${i} and ${j}`);
      view[i] ^= 0x80000000;
      view[j] ^= 0x80000000;
    }
  }
  for (let i = 1; i < n; i++) {
    [view[0], view[i]] = [view[i], view[0]];
    changed();
    [view[0], view[i]] = [view[i], view[0]];
  }
  for (let length = 0; length < n; length++) {
    hashes.add(kernels.hashWords(length, x));
    changes += 1;
  }
  t.equal(hashes.size, changes);
  view.fill(0);
  t.equal(new Set(Array.from({ length: 40 }, (_, length) => kernels.hashWords(length, x))).size, 40, "zeros");
  t.ok(arena.reset());
  t.end();
});
