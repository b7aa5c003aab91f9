/**
 * GPUs by WebGPU: in Node through the npm package `webgpu` (Dawn), in Deno
 * built in. Finds adapters, opens a device, and sees to it that nothing which
 * goes wrong on a device stays silent: invalid commands, shaders that do not
 * compile, a device that is lost.
 *
 * @module
 */

/** What can be had of one GPU, or of a software driver that stands in for one. */
export interface GpuAdapter {
  /** What --device takes. */
  readonly index: number;
  readonly name: string;
  readonly vendor: string;
  /** "vulkan", "metal", ...; "" where the runtime does not say. */
  readonly backend: string;
  /** Whether a processor computes, not a GPU. */
  readonly software: boolean;
  /** Bytes of the largest buffer that a kernel can use. */
  readonly maxBufferBytes: number;
}

export interface WebgpuProbe {
  readonly usable: boolean;
  /** The adapter that would be used, or "". */
  readonly description: string;
  /** Why it is not usable, or null. */
  readonly reason: string | null;
  /** What makes it usable, or null. */
  readonly fix: string | null;
  readonly software: boolean;
}

/** The parts of npm package `webgpu` that are used. */
interface DawnModule {
  readonly create: (options: readonly string[]) => GPU;
  readonly globals: Record<string, unknown>;
}

interface Found {
  readonly description: GpuAdapter;
  readonly adapter: GPUAdapter;
}

const isDeno = "Deno" in globalThis;

/** What Dawn is asked for: its other backends show the same GPUs again, and worse. */
const BACKENDS: Readonly<Record<string, string>> = { darwin: "metal", win32: "d3d12" };
const BACKEND = BACKENDS[process.platform] ?? "vulkan";

const INSTALL_DRIVER =
  "install the GPU's driver with Vulkan; without a GPU, for tests: apt-get install -y --no-install-recommends chromium libvulkan1, and set VK_ICD_FILENAMES=/usr/lib/chromium/vk_swiftshader_icd.json";

/**
 * Dawn's checks of indices and its clearing of workgroup memory cost time in every product. Our kernels
 * check their indices where these can leave a matrix, and write before they read.
 */
const DAWN_OPTIONS = ["enable-dawn-features=disable_robustness,disable_workgroup_init"];

/** Limits of which we take all that an adapter has. */
const LIMITS = [
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
] as const;

/** GPUs first, then software drivers; empty if there is neither. @throws {Error} If WebGPU itself is missing. */
export async function listAdapters(): Promise<readonly GpuAdapter[]> {
  return (await findAdapters()).map(({ description }) => description);
}

/** Whether engine webgpu can be used here, and with what. Leaves nothing running. */
export async function probeWebgpu(): Promise<WebgpuProbe> {
  const no = (reason: string, fix: string): WebgpuProbe => ({
    usable: false,
    description: "",
    reason,
    fix,
    software: false,
  });
  let found: readonly Found[];
  try {
    found = await findAdapters();
  } catch (error) {
    return no(messageOf(error), isDeno ? "use Deno 2.9 or later" : "npm install webgpu");
  }
  if (found.length === 0) return no("no adapter was found", INSTALL_DRIVER);
  const [{ adapter, description }] = found;
  try {
    const device = await adapter.requestDevice();
    device.destroy();
  } catch (error) {
    return no(`${description.name} gives no device: ${messageOf(error)}`, INSTALL_DRIVER);
  }
  const { software } = description;
  return { usable: true, description: describeAdapter(description), reason: null, fix: null, software };
}

export function describeAdapter({ name, vendor, backend, software }: GpuAdapter): string {
  const notes = [vendor, backend, software ? "software" : ""].filter((note) => note !== "");
  return `${name} (${notes.join(", ")})`;
}

export interface DeviceOptions {
  /** Whether the driver keeps kernels from leaving their buffers, which those of tfjs may need. */
  readonly guardIndices?: boolean;
}

/**
 * Opens a device.
 *
 * @param choice Index of an adapter in listAdapters(), its name, or null for the first.
 * @throws {Error} If there is no such adapter; the message says what to do.
 */
export async function openDevice(
  choice: number | string | null,
  { guardIndices = false }: DeviceOptions = {},
): Promise<OpenDevice> {
  const found = await findAdapters(guardIndices ? [] : DAWN_OPTIONS);
  if (found.length === 0)
    throw new Error(`Cannot use engine webgpu as no adapter was found: ${INSTALL_DRIVER}`);
  const at =
    typeof choice === "string"
      ? found.findIndex(({ description }) => description.name === choice)
      : (choice ?? 0);
  const chosen = found.at(at);
  if (at < 0 || chosen === undefined) {
    const names = found.map(({ description: { index, name } }) => `${index} (${name})`).join(", ");
    throw new Error(
      `Cannot use adapter ${choice} as these are here: ${names}; choose one of them with --device`,
    );
  }
  const { adapter, description } = chosen;
  const requiredLimits = Object.fromEntries(LIMITS.map((limit) => [limit, adapter.limits[limit]]));
  const device = await adapter.requestDevice({ requiredLimits });
  return new OpenDevice(device, description);
}

/** A device whose failures reject whatever is awaited through it. */
export class OpenDevice {
  readonly adapter: GpuAdapter;
  readonly device: GPUDevice;
  /** By source. */
  readonly #pipelines = new Map<string, Promise<GPUComputePipeline>>();
  #fault: Error | null = null;
  /** Ways to tell those who wait that the device has failed. */
  readonly #waiting = new Set<(fault: Error) => void>();

  constructor(device: GPUDevice, adapter: GpuAdapter) {
    this.adapter = adapter;
    this.device = device;
    device.addEventListener("uncapturederror", (event) => {
      // Otherwise Dawn prints it as well.
      event.preventDefault();
      this.#fail(new Error(`Cannot go on with ${adapter.name}: ${event.error.message.trim()}`));
    });
    void device.lost.then(({ reason, message }) => {
      this.#fail(new Error(`Cannot go on as the device ${adapter.name} was lost (${reason}): ${message}`));
    });
  }

  /**
   * Runs work that creates or uses objects of the device.
   *
   * @throws {Error} If the device finds a command invalid, has no memory left, or is lost.
   */
  async checked<T>(what: string, work: () => T | Promise<T>): Promise<T> {
    if (this.#fault !== null) throw this.#fault;
    const { device } = this;
    device.pushErrorScope("out-of-memory");
    device.pushErrorScope("validation");
    // Scopes are a stack: they must be closed before another piece of work may open its own.
    let outcome: T | Promise<T>;
    let scopes: Promise<(GPUError | null)[]>;
    try {
      outcome = work();
    } finally {
      scopes = Promise.all([device.popErrorScope(), device.popErrorScope()]);
      // If the work throws, that says more.
      scopes.catch(() => undefined);
    }
    const settled = Promise.allSettled([outcome]);
    const refuse = async (reason: string, cause?: unknown): Promise<never> => {
      // A lost device may first show by other errors.
      await this.#unlessFailed(new Promise((resolve) => setTimeout(resolve, 20)));
      throw new Error(`Cannot ${what} on ${this.adapter.name}: ${reason.trim()}`, { cause });
    };
    const errors = await this.#unlessFailed(scopes).catch((error: unknown) =>
      refuse(messageOf(error), error),
    );
    const error = errors.find((scope) => scope !== null);
    if (error) return refuse(error.message);
    const [result] = await this.#unlessFailed(settled);
    if (this.#fault !== null) throw this.#fault as Error;
    return result.status === "fulfilled" ? result.value : refuse(messageOf(result.reason), result.reason);
  }

  /**
   * Compiles a compute shader with an entry point `main`, if it was not yet.
   *
   * @throws {Error} With the compiler's messages.
   */
  compile(label: string, code: string): Promise<GPUComputePipeline> {
    let pipeline = this.#pipelines.get(code);
    if (pipeline === undefined) {
      pipeline = this.#compile(label, code);
      this.#pipelines.set(code, pipeline);
    }
    return pipeline;
  }

  async #compile(label: string, code: string): Promise<GPUComputePipeline> {
    const { device } = this;
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label, code });
    const scope = device.popErrorScope();
    const { messages } = await module.getCompilationInfo();
    const errors = messages.filter(({ type }) => type === "error");
    if (errors.length > 0 || (await scope) !== null) {
      const text = errors.map(({ lineNum, message }) => `line ${lineNum}: ${message.trim()}`).join("; ");
      throw new Error(`Cannot compile shader ${label} on ${this.adapter.name}: ${text}`);
    }
    try {
      return await device.createComputePipelineAsync({
        label,
        layout: "auto",
        compute: { module, entryPoint: "main" },
      });
    } catch (error) {
      throw new Error(`Cannot compile shader ${label} on ${this.adapter.name}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** The device is lost, or has reported an error that nobody else has heard. */
  #fail(error: Error): void {
    this.#fault ??= error;
    for (const reject of this.#waiting) reject(this.#fault);
  }

  /** What the promise gives, or the device's failure if that comes first. */
  #unlessFailed<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#fault !== null) reject(this.#fault);
      this.#waiting.add(reject);
      void promise.then(resolve, reject).finally(() => this.#waiting.delete(reject));
    });
  }

  /** Ends the device with all that was made on it. */
  close(): void {
    this.#fail(new Error(`Cannot go on with ${this.adapter.name} as it was closed`));
    this.device.destroy();
  }
}

async function findAdapters(dawnOptions: readonly string[] = []): Promise<readonly Found[]> {
  const found = await (isDeno ? findInDeno() : findInNode(dawnOptions));
  // GPUs before software; among themselves in the order in which they were found.
  const sorted = [...found].sort((a, b) => Number(a.software) - Number(b.software));
  return sorted.map(({ adapter, ...rest }, index) => ({
    adapter,
    description: { index, ...rest, maxBufferBytes: adapter.limits.maxStorageBufferBindingSize },
  }));
}

type Candidate = Omit<GpuAdapter, "index" | "maxBufferBytes"> & {
  readonly adapter: GPUAdapter;
};

/** Deno shows one adapter per wish. */
async function findInDeno(): Promise<readonly Candidate[]> {
  const { gpu } = navigator;
  const wishes: readonly GPURequestAdapterOptions[] = [
    { powerPreference: "high-performance" },
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ];
  const candidates = new Map<string, Candidate>();
  for (const wish of wishes) {
    const adapter = await gpu.requestAdapter(wish);
    if (adapter === null) continue;
    const { vendor, device, description } = adapter.info;
    const key = [vendor, device, description].join();
    if (candidates.has(key)) continue;
    const candidate = { name: description, vendor: vendorOf(vendor), backend: "", adapter };
    candidates.set(key, { ...candidate, software: isSoftware(adapter.info) });
  }
  return [...candidates.values()];
}

/** Dawn lists its adapters in the error for one that is not there. */
async function findInNode(dawnOptions: readonly string[]): Promise<readonly Candidate[]> {
  const { create, globals } = await loadDawn();
  for (const [name, value] of Object.entries(globals))
    if (!(name in globalThis)) Object.assign(globalThis, { [name]: value });
  let listing = "";
  try {
    await dawn(create, [`backend=${BACKEND}`, "adapter=?"]).requestAdapter();
  } catch (error) {
    listing = messageOf(error);
  }
  const candidates: Candidate[] = [];
  for (const [, backend, name] of listing.matchAll(/backend: '(.*?)', name: '(.*)'/g)) {
    if (candidates.some((other) => other.name === name && other.backend === backend)) continue;
    const options = [...dawnOptions, `backend=${backend}`, `adapter=${name}`];
    const adapter = await dawn(create, options).requestAdapter();
    if (adapter === null) continue;
    const { info } = adapter;
    candidates.push({
      name,
      vendor: info.vendor,
      backend,
      software: isSoftware(info) || /swiftshader|llvmpipe/i.test(name),
      adapter,
    });
  }
  return candidates;
}

/** Kept, as Dawn crashes when an instance is collected while another one compiles. */
const instances = new Map<string, GPU>();

function dawn(create: DawnModule["create"], options: readonly string[]): GPU {
  const key = options.join();
  const instance = instances.get(key) ?? create(options);
  instances.set(key, instance);
  return instance;
}

async function loadDawn(): Promise<DawnModule> {
  try {
    // The package is optional: where it is not installed, its types are missing too.
    const name = "webgpu";
    return (await import(name)) as DawnModule;
  } catch (error) {
    throw new Error(`Cannot load the npm package webgpu: ${messageOf(error)}`, { cause: error });
  }
}

function isSoftware(info: GPUAdapterInfo): boolean {
  const text = [info.architecture, info.device, info.description].join(" ");
  return info.isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|basic render/i.test(text);
}

/** PCI numbers of vendors, which Deno gives in decimal. */
function vendorOf(id: string): string {
  const names: Record<string, string> = {
    "4098": "amd",
    "4318": "nvidia",
    "5045": "arm",
    "6880": "google",
    "20803": "qualcomm",
    "32902": "intel",
    "65541": "mesa",
    "4203": "apple",
  };
  return names[id] ?? id;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message.trim() : String(error);
}
