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
    [{ workers: 0 }, /--workers: .*: got 0/],
    [{ workers: 2, shards: 1 }, /--workers: must be at most the number of shards/],
    [{ workers: 1, shards: 8, globalBatchSize: 4 }, /--shards: must be at most the global batch size/],
    [{ workers: 1, learningRate: -1 }, /--learning-rate: .*: got -1/],
    [{ workers: 1, beta1: 1 }, /--beta1: /],
    [{ workers: 1, seed: 0.5 }, /--seed: /],
    [{ workers: 1, failureTimeoutMs: 5 }, /--failure-timeout: /],
    [{ workers: 1, engine: "abacus" }, /--engine: .*: got "abacus"/],
    [{ workers: 1, learningrate: 1 }, /learningrate/],
    [{}, /--workers/],
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
