import t from "tap";
import "./software-gpu.ts";
import { createTensorflowEngine } from "../../worker/engine/tensorflow-engine.ts";
import { probeTensorflow } from "../../worker/engine/tensorflow-probe.ts";
import { probeWebgpu } from "../../worker/engine/webgpu-device.ts";
import { skipUnlessUsable } from "../engines.ts";
import { besideMemory, checkEngine, objective, withConfig } from "./engine-checks.ts";

const webgpu = skipUnlessUsable("webgpu", await probeWebgpu());
const tensorflow = skipUnlessUsable("tensorflow", await probeTensorflow());

checkEngine(t, "webgpu", withConfig("webgpu", false), webgpu);
checkEngine(t, "tensorflow", withConfig("tensorflow", false), tensorflow);
const throughTfjs = besideMemory((options) =>
  createTensorflowEngine({ ...options, objective: { ...objective, softplusForm: null } }),
);
checkEngine(t, "tensorflow through tfjs", throughTfjs, tensorflow);
