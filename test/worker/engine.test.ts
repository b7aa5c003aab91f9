import t from "tap";
import { createTfjsEngine } from "../../worker/engine/tfjs-engine.ts";
import { besideMemory, checkEngine, FUSED, withConfig } from "./engine-checks.ts";
import { skipFused } from "./kernels/arena.ts";

checkEngine(t, "wasm, fused", withConfig("wasm", false), skipFused);
checkEngine(t, "wasm, deterministic", withConfig("wasm", true), false);
// For networks that engine wasm has no kernels for.
const throughTfjs = besideMemory((options) => createTfjsEngine("wasm", FUSED, options));
checkEngine(t, "wasm through tfjs", throughTfjs, false);
checkEngine(t, "cpu", withConfig("cpu", false), false);
