import { readFile } from "node:fs/promises";
import t from "tap";
import { fusesMultiplyAdd, loadKernels } from "../../../worker/kernels/kernels.ts";
import { skipFused } from "./arena.ts";

for (const name of ["kernels.wasm", "kernels-fused.wasm"]) {
  const options = { skip: name.includes("fused") && skipFused };
  t.test(`${name} imports a memory and touches none of it when it is loaded`, options, async (t) => {
    const bytes = await readFile(new URL(`../../../worker/kernels/${name}`, import.meta.url));
    const module = new WebAssembly.Module(bytes);
    t.same(WebAssembly.Module.imports(module), [{ module: "env", name: "memory", kind: "memory" }]);
    const memory = new WebAssembly.Memory({ initial: 1 });
    new Uint8Array(memory.buffer).fill(0xa5);
    await WebAssembly.instantiate(module, { env: { memory } });
    t.ok(new Uint8Array(memory.buffer).every((byte) => byte === 0xa5));
    t.equal(memory.buffer.byteLength, 65536);
  });
}

t.test("loadKernels() works on a memory that has grown since", async (t) => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const kernels = await loadKernels({ memory, fused: false });
  memory.grow(2);
  const x = 2 * 65536;
  new Float32Array(memory.buffer, x, 5).set([1, 2, 3, 4, 5]);
  kernels.scale(5, 2, x, x);
  t.same([...new Float32Array(memory.buffer, x, 5)], [2, 4, 6, 8, 10]);
  t.equal(kernels.fused, false);
  t.equal(kernels.memory, memory);
});

t.test("loadKernels() refuses the fused build where nothing fuses", async (t) => {
  const loading = loadKernels({ memory: new WebAssembly.Memory({ initial: 1 }), fused: true });
  if (fusesMultiplyAdd()) t.equal((await loading).fused, true);
  else await t.rejects(loading, /--deterministic-kernels/);
});
