import t from "tap";
import { OBJECTIVES } from "../../shared/nn/objectives.ts";
import { checkCapabilities } from "../../worker/engine/engine.ts";
import { Running } from "../integration/processes.ts";
import { checkEngine, RUN } from "./check-engine.ts";

for (const engine of ["wasm", "cpu"] as const) checkEngine(t, engine, "Node");

t.test("an engine that lacks what an objective needs is refused with the ones that have it", async (t) => {
  const capabilities = {
    tensorflow: [],
    webgpu: [],
    wasm: ["gradient-of-gradient"],
    cpu: ["gradient-of-gradient"],
  } as const;
  t.throws(() => checkCapabilities("webgpu", OBJECTIVES["wgan-gp"], capabilities), {
    name: "UsageError",
    message: /engine webgpu as it needs gradient-of-gradient: use --engine wasm or cpu/,
  });
  checkCapabilities("wasm", OBJECTIVES["wgan-gp"], capabilities);
  checkCapabilities("webgpu", OBJECTIVES.hinge, capabilities);
});

t.test("run.js says how to use it", async (t) => {
  const { code, output } = await new Running(process.execPath, [RUN, "--engine", "abacus"]).finished;
  t.equal(code, 2);
  t.match(output, /--engine must be one of tensorflow, webgpu, wasm, cpu/);
});
