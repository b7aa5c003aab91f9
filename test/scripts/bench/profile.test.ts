import t from "tap";
import { kernelNames } from "../../../scripts/bench/kernel-names.ts";
import { selfTimes } from "../../../scripts/bench/profile.ts";

t.test("selfTimes() sums samples by function and names kernels", async (t) => {
  const frame = (functionName: string, url = "", lineNumber = -1) => ({ functionName, url, lineNumber });
  const nodes = [
    { id: 1, callFrame: frame("(root)") },
    { id: 2, callFrame: frame("step", "file:///x/train-step.js", 9) },
    { id: 3, callFrame: frame("wasm-function[7]", "wasm://wasm/1") },
    { id: 4, callFrame: frame("wasm-function[8]", "wasm://wasm/1") },
    { id: 5, callFrame: frame("step", "file:///x/train-step.js", 9) },
  ];
  const profile = { nodes, samples: [2, 3, 3, 4, 5], timeDeltas: [1000, 4000, 5000, 500, 2000] };
  t.same(selfTimes(profile, new Map([[7, "adam"]])), [
    { name: "adam  (kernels)", selfMs: 9 },
    { name: "step  train-step.js:10", selfMs: 3 },
    { name: "internal 8  (kernels)", selfMs: 0.5 },
  ]);
});

t.test("kernelNames() knows the exported kernels by number", async (t) => {
  const names = await kernelNames();
  t.ok([...names.keys()].every((number) => Number.isInteger(number)));
  for (const name of ["gemm", "adam", "hashWords"]) t.ok([...names.values()].includes(name), name);
});
