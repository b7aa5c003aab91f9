import t from "tap";
import {
  dataPosition,
  DEFAULT_EPOCHS,
  flagOf,
  isSampleStep,
  parseRunConfig,
  stepsOfEpochs,
  totalSteps,
  trainingConfig,
  trainingDifferences,
} from "../../shared/config.ts";
import { UsageError } from "../../shared/errors.ts";

t.test("parseRunConfig() refuses a step whose images do not fit into a message", async (t) => {
  const large = { workers: 4, maxSteps: 1, globalBatchSize: 2 ** 20 };
  t.equal(parseRunConfig({ ...large, discriminatorSteps: 2 }).discriminatorSteps, 2);
  t.throws(() => parseRunConfig({ ...large, discriminatorSteps: 3 }), {
    name: "UsageError",
    message: /--global-batch-size must leave the images of a step, .*below 2147483647 bytes.*got 1048576/,
  });
});

t.test("parseRunConfig() fills in the reference model", async (t) => {
  t.match(parseRunConfig({ workers: 2 }), {
    globalBatchSize: 64,
    learningRate: 2e-4,
    beta1: 0.5,
    beta2: 0.999,
    latentDim: 100,
    discriminatorSteps: 1,
    epochs: DEFAULT_EPOCHS,
    maxSteps: null,
  });
  t.equal(
    parseRunConfig({ workers: 2, maxSteps: 5 }).epochs,
    null,
    "a step limit replaces the default epochs",
  );
});

t.test("parseRunConfig() refuses with flag, rule and value", async (t) => {
  const cases: [object, RegExp][] = [
    [{ workers: 0 }, /configuration: --workers must be at least 1: got 0$/],
    [{ workers: 1.5 }, /--workers must be a whole number: got 1\.5$/],
    [{ workers: "2" }, /--workers must be a number: got "2"$/],
    [{ workers: NaN }, /--workers must be a number: got NaN$/],
    [{ workers: 2, shards: 1 }, /--workers must be at most the number of shards.*: got 2$/],
    [{ workers: 1, shards: 8, globalBatchSize: 4 }, /--shards must be at most --global-batch-size.*: got 8$/],
    [{ workers: 1, learningRate: -1 }, /--learning-rate must be above 0: got -1$/],
    [{ workers: 1, epochs: Infinity }, /--epochs must be a number: got Infinity$/],
    [{ workers: 1, beta1: 1 }, /--beta1 must be below 1: got 1$/],
    [{ workers: 1, seed: 0.5 }, /--seed must be a whole number: got 0\.5$/],
    [{ workers: 1, seed: -1 }, /--seed must be at least 0: got -1$/],
    [{ workers: 1, failureTimeoutMs: 500 }, /--failure-timeout must be at least 1 s: got 0\.5 s$/],
    [{ workers: 1, stragglerTimeoutMs: -1000 }, /--straggler-timeout must be at least 0 s: got -1 s$/],
    [{ workers: 1, orphanTimeoutMs: 1e9 }, /--orphan-timeout must be at most 86400 s: got 1000000 s$/],
    [{ workers: 1, engine: "abacus" }, /--engine must be one of tensorflow, .*: got "abacus"$/],
    [{ workers: 1, sharedMemory: "on" }, /--shared-memory must be true or false: got "on"$/],
    [{ workers: 1, gpus: "a" }, /--gpus must be "all" or indices with commas, as "0,1": got "a"$/],
    [{ workers: 1, learningrate: 1 }, /learningrate/],
    [{ workers: 2, globalBatchSize: 2 }, /: --shards must be at most --global-batch-size.*: got 4$/],
    [{ workers: 9, minWorkers: 0 }, /configuration: --min-workers must be at least 1: got 0$/],
    [{ workers: 0, shards: 0 }, /: --shards must be .*: got 0; --workers must be .*: got 0$/],
    [{}, /--workers must be a number: got nothing$/],
  ];
  for (const [config, message] of cases) t.throws(() => parseRunConfig(config), { message }, String(message));
  t.throws(() => parseRunConfig(null), UsageError);
});

t.test("trainingDifferences() names what decides the bits and nothing else", async (t) => {
  const a = parseRunConfig({ workers: 2, maxSteps: 5 });
  const b = parseRunConfig({ workers: 4, maxSteps: 9, seed: 3, shards: 8 });
  t.same(trainingDifferences(trainingConfig(a), trainingConfig(b)), ["--seed: 0 and 3", "--shards: 4 and 8"]);
  t.equal(flagOf("discriminatorSteps"), "--discriminator-steps");
});

t.test("the stream of images crosses epochs without a partial batch", async (t) => {
  const config = parseRunConfig({ workers: 1, epochs: 2, globalBatchSize: 64 });
  t.equal(stepsOfEpochs(config, 60_000, 1), 938);
  t.equal(totalSteps(config, 60_000), 1875);
  t.equal(totalSteps(parseRunConfig({ workers: 1, epochs: 2, maxSteps: 100 }), 60_000), 100);
  t.same(dataPosition(config, 60_000, 938), { samples: 60_032, epoch: 1, positionInEpoch: 32 });
  const every = Array.from({ length: 1876 }, (_, step) => step).filter((step) =>
    isSampleStep(config, 60_000, step),
  );
  t.same(every, [938, 1875]);
  const each = parseRunConfig({ workers: 1, sampleEvery: 100 });
  t.ok(isSampleStep(each, 60_000, 200));
  t.notOk(isSampleStep(each, 60_000, 938));
});
