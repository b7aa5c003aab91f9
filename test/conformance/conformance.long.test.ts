import t from "tap";
import "../worker/software-gpu.ts";
import { checkEngine } from "./check-engine.ts";

for (const engine of ["tensorflow", "webgpu"] as const) checkEngine(t, engine, "Node");
for (const engine of ["webgpu", "wasm", "cpu"] as const) checkEngine(t, engine, "Deno");
