/**
 * Lets tests of WebGPU run without a GPU: on the software Vulkan driver that
 * comes with Debian's package chromium. To be imported before any engine.
 *
 * @module
 */
import { existsSync, readdirSync } from "node:fs";

const SWIFT_SHADER = "/usr/lib/chromium/vk_swiftshader_icd.json";

function hasGpu(): boolean {
  const nodes = (folder: string): readonly string[] => (existsSync(folder) ? readdirSync(folder) : []);
  return nodes("/dev/dri").length > 0 || nodes("/dev").some((name) => /^nvidia\d/.test(name));
}

const isChosen =
  process.env["VK_ICD_FILENAMES"] !== undefined || process.env["VK_DRIVER_FILES"] !== undefined;
if (!isChosen && !hasGpu() && existsSync(SWIFT_SHADER)) process.env["VK_ICD_FILENAMES"] = SWIFT_SHADER;
