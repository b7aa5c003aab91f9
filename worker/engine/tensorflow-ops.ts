/**
 * The operations of TensorFlow that networks of dense layers need, called on
 * the binding itself: tfjs would add its own bookkeeping to each.
 *
 * @module
 */
import type { KernelActivation } from "../kernels/kernels.ts";
import type { Attribute, Binding, TensorId } from "./tensorflow-binding.ts";

/** A tensor, and the array that its values go to. */
export interface Reading {
  readonly tensor: TensorId;
  readonly out: Float32Array;
}

/** Below this many values a copy costs less than two more operations. */
const SMALL = 4096;

export class TensorflowOps {
  readonly #binding: Binding;
  readonly #isGpu: boolean;
  /** Tensors that the innermost tidy() deletes. */
  #made = new Set<TensorId>();
  readonly #float: Attribute;
  /** Constants for axes, indices and shapes. */
  readonly #axis: TensorId;
  readonly #first: TensorId;
  readonly #flat: TensorId;
  readonly #row: TensorId;

  constructor(binding: Binding) {
    this.#binding = binding;
    this.#isGpu = binding.isUsingGpuDevice();
    this.#float = this.#type("T", binding.TF_FLOAT);
    this.#axis = this.tensor(Int32Array.of(0), []);
    this.#first = this.tensor(Int32Array.of(0), [1]);
    this.#flat = this.tensor(Int32Array.of(-1), [1]);
    this.#row = this.tensor(Int32Array.of(1, -1), [2]);
    this.#made.clear();
  }

  /** Runs `compute` and deletes every tensor that it has made and not kept. */
  tidy<R>(compute: () => R): R {
    const outer = this.#made;
    this.#made = new Set();
    try {
      return compute();
    } finally {
      for (const id of this.#made) this.#binding.deleteTensor(id);
      this.#made = outer;
    }
  }

  /** Takes tensors out of tidy()'s hands; who keeps them must give them to free(). */
  keep(tensors: readonly TensorId[]): void {
    for (const id of tensors) this.#made.delete(id);
  }

  free(tensors: readonly TensorId[]): void {
    for (const id of tensors) {
      this.#made.delete(id);
      this.#binding.deleteTensor(id);
    }
  }

  dispose(): void {
    this.free([this.#axis, this.#first, this.#flat, this.#row]);
  }

  /** Tensors that exist in this process. */
  get numTensors(): number {
    return this.#binding.getNumOfTensors();
  }

  /** @param values May be shared, not copied: they must not change while the tensor lives. */
  tensor(values: Float32Array | Int32Array | Uint8Array, shape: readonly number[]): TensorId {
    const { TF_FLOAT, TF_INT32, TF_UINT8 } = this.#binding;
    const dtype =
      values instanceof Float32Array ? TF_FLOAT : values instanceof Int32Array ? TF_INT32 : TF_UINT8;
    const id = this.#binding.createTensor(shape, dtype, values);
    this.#made.add(id);
    return id;
  }

  /** op(a) op(b), each transposed or not. */
  matMul(a: TensorId, b: TensorId, { transA = false, transB = false } = {}): TensorId {
    const { TF_ATTR_BOOL: type } = this.#binding;
    return this.#run(
      "MatMul",
      [a, b],
      [
        this.#float,
        { name: "transpose_a", type, value: transA },
        { name: "transpose_b", type, value: transB },
      ],
    );
  }

  /** Adds b (N,) to each row of x (B, N). */
  addBias(x: TensorId, b: TensorId): TensorId {
    return this.#run("BiasAdd", [x, b]);
  }

  /** Sum over the rows of x (B, N): (N,). */
  sumRows(x: TensorId): TensorId {
    return this.#run("BiasAddGrad", [x]);
  }

  /** @param activation Not "none". */
  activate(activation: KernelActivation, x: TensorId, alpha: number): TensorId {
    return activation === "leakyRelu"
      ? this.#run("LeakyRelu", [x], [this.#float, this.#alpha(alpha)])
      : this.#run(activation === "tanh" ? "Tanh" : "Sigmoid", [x]);
  }

  /** Gradient by an activation's input, from its output y. @param activation Not "none". */
  activationGradient(activation: KernelActivation, dy: TensorId, y: TensorId, alpha: number): TensorId {
    return activation === "leakyRelu"
      ? this.#run("LeakyReluGrad", [dy, y], [this.#float, this.#alpha(alpha)])
      : this.#run(activation === "tanh" ? "TanhGrad" : "SigmoidGrad", [y, dy]);
  }

  sigmoid(x: TensorId): TensorId {
    return this.#run("Sigmoid", [x]);
  }

  softplus(x: TensorId): TensorId {
    return this.#run("Softplus", [x]);
  }

  /** Elementwise, with broadcasting. */
  mul(a: TensorId, b: TensorId): TensorId {
    return this.#run("Mul", [a, b]);
  }

  div(a: TensorId, b: TensorId): TensorId {
    return this.#run("RealDiv", [a, b]);
  }

  sub(a: TensorId, b: TensorId): TensorId {
    return this.#run("Sub", [a, b]);
  }

  /** uint8 to float32. */
  toFloat(x: TensorId): TensorId {
    const { TF_UINT8, TF_FLOAT } = this.#binding;
    return this.#run("Cast", [x], [this.#type("SrcT", TF_UINT8), this.#type("DstT", TF_FLOAT)]);
  }

  /** Along the first dimension. @param tensors Two or more. */
  concat(tensors: readonly TensorId[]): TensorId {
    const { TF_INT32, TF_ATTR_INT: type } = this.#binding;
    return this.#run(
      "ConcatV2",
      [...tensors, this.#axis],
      [this.#float, { name: "N", type, value: tensors.length }, this.#type("Tidx", TF_INT32)],
    );
  }

  /** Copies tensors' values out. */
  read(readings: readonly Reading[]): void {
    if (this.#isGpu) this.#readTogether(readings);
    else for (const reading of readings) this.#readInPlace(reading);
  }

  /** One transfer from the device for all. */
  #readTogether(readings: readonly Reading[]): void {
    const flat = readings.map(({ tensor }) => this.#reshape(tensor, this.#flat));
    const packed = flat.length === 1 ? flat[0] : this.concat(flat);
    const values = this.#binding.tensorDataSync(packed);
    let start = 0;
    for (const { out } of readings) {
      out.set(values.subarray(start, start + out.length));
      start += out.length;
    }
  }

  /**
   * TensorFlow itself writes a large tensor to `out`: the binding would copy it to a new array first.
   * That needs a tensor that shares the memory of `out`; whether it does shows in the first value.
   */
  #readInPlace({ tensor, out }: Reading): void {
    if (out.length >= SMALL) {
      out[0] = NaN;
      const shared = this.tensor(out, [1, out.length]);
      const row = this.#reshape(tensor, this.#row);
      const written = this.#run("InplaceUpdate", [shared, this.#first, row]);
      this.free([shared, row, written]);
      if (!Number.isNaN(out[0])) return;
    }
    out.set(this.#binding.tensorDataSync(tensor));
  }

  #reshape(x: TensorId, shape: TensorId): TensorId {
    return this.#run("Reshape", [x, shape], [this.#float, this.#type("Tshape", this.#binding.TF_INT32)]);
  }

  #alpha(value: number): Attribute {
    return { name: "alpha", type: this.#binding.TF_ATTR_FLOAT, value };
  }

  #type(name: string, value: number): Attribute {
    return { name, type: this.#binding.TF_ATTR_TYPE, value };
  }

  #run(
    name: string,
    inputs: readonly TensorId[],
    attributes: readonly Attribute[] = [this.#float],
  ): TensorId {
    const [{ id }] = this.#binding.executeOp(name, attributes, inputs, 1);
    this.#made.add(id);
    return id;
  }
}
