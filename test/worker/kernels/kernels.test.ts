import { execFileSync } from "node:child_process";
import t from "tap";
import { chooseKernels, compileKernels, kernelFile } from "../../../worker/kernels/kernel-builds.ts";
import { fusesMultiplyAdd, loadKernels } from "../../../worker/kernels/kernels.ts";
import { skipFused } from "./arena.ts";

const BUILDS_MODULE = new URL("../../../worker/kernels/kernel-builds.js", import.meta.url).href;

const BUILDS = [false, true].flatMap((fused) => [false, true].map((wide) => ({ fused, wide })));

for (const build of BUILDS) {
  const name = kernelFile(build);
  const options = { skip: build.fused && skipFused };
  t.test(`${name} imports a memory and touches none of it when it is loaded`, options, async (t) => {
    const module = await compileKernels(build);
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

t.test("chooseKernels() chooses once, says why not, and LOCKSTEP_VECTOR_BITS decides instead", async (t) => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const choice = await chooseKernels(false);
  t.equal(choice.reason === null, choice.wide, "a reason where the wide build is not used");
  t.equal(await chooseKernels(false), choice);
  t.equal((await loadKernels({ memory, fused: false })).wide, choice.wide);
  for (const [bits, wide] of [
    ["128", false],
    ["256", true],
  ] as const) {
    const script = `import { chooseKernels } from ${JSON.stringify(BUILDS_MODULE)};
      process.stdout.write(JSON.stringify(await chooseKernels(true)));`;
    const env = { ...process.env, LOCKSTEP_VECTOR_BITS: bits };
    const args = ["--input-type=module", "--eval", script];
    const forced = JSON.parse(execFileSync(process.execPath, args, { env, encoding: "utf8" })) as unknown;
    t.match(forced, { wide });
  }
});

t.test("loadKernels() refuses the fused build where nothing fuses", async (t) => {
  const loading = loadKernels({ memory: new WebAssembly.Memory({ initial: 1 }), fused: true });
  if (fusesMultiplyAdd()) t.equal((await loading).fused, true);
  else await t.rejects(loading, /--deterministic-kernels/);
});
