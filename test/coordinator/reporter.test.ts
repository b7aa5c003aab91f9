import { PassThrough, Writable } from "node:stream";
import t from "tap";
import { Reporter } from "../../coordinator/reporter.ts";

const METRICS = {
  discriminatorLoss: 0.5,
  generatorLoss: 1.5,
  realProbability: 0.75,
  fakeProbability: 0.25,
  discriminatorGradientNorm: 1,
  generatorGradientNorm: 1,
};

/** What a terminal of so many columns is shown at half of a run, without what moves the cursor. */
function barAt(columns: number | undefined): string {
  let written = "";
  const terminal = Object.assign(
    new Writable({
      write(chunk: Buffer, _encoding, done) {
        written += String(chunk);
        done();
      },
    }),
    { isTTY: true, columns },
  );
  new Reporter("text", terminal as unknown as NodeJS.WriteStream).progress({
    ...{ globalStep: 50, endStep: 100, epoch: 0.5, numEpochs: 1, imagesPerSecond: 100, secondsLeft: 5 },
    metrics: METRICS,
  });
  // eslint-disable-next-line no-control-regex
  return written.replace(/\u001b\[[0-9]*[A-Z]/g, "");
}

t.test("progress fits into the terminal, and says something in any", async (t) => {
  t.match(barAt(200), /^\[#{10}-{10}\] step 50\/100 {2}epoch .* left$/);
  for (const unknown of [0, undefined]) t.equal(barAt(unknown), barAt(80), `${unknown} columns`);
  t.match(barAt(80), /^\[#{10}-{10}\] step 50\/100/);
  t.match(barAt(40), /^step 50\/100 {2}epoch/);
  t.equal(barAt(10), "50%");
  for (let columns = 1; columns < 200; columns++) {
    const { length } = barAt(columns);
    t.ok(length > 0 && length <= Math.max(1, columns - 1), `${columns} columns: ${length} characters`);
  }
});

t.test("Reporter shows lines of workers without what a terminal would obey", async (t) => {
  const out = new PassThrough();
  const reporter = new Reporter("text", out as unknown as NodeJS.WriteStream);
  reporter.worker("worker-0", "\u001b[31mred\u001b[0m\tand \u001b]0;title\u0007\rTrained to step 9 é");
  await reporter.close();
  t.equal(String(out.read()), "[worker-0] red  and ?]0;title??Trained to step 9 é\n");
});
