import { chmodSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import {
  fingerprint,
  generateKey,
  KEY_VARIABLE,
  keyOf,
  readKeyFile,
  writeKeyFile,
} from "../../shared/keys.ts";

t.test("writeKeyFile() writes a key that only its owner can read, and never over another", async (t) => {
  const path = join(t.testdir(), "run.key");
  const key = writeKeyFile(path);
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.same(readKeyFile(path), key);
  const before = readFileSync(path, "utf8");
  t.throws(() => writeKeyFile(path), { name: "UsageError", message: /is there already: give another --out/ });
  t.equal(readFileSync(path, "utf8"), before);
  t.throws(() => writeKeyFile(join(path, "x")), /Cannot write a key/);
  const other = generateKey();
  t.not(other.secretKey, key.secretKey);
  t.not(fingerprint(other), fingerprint(key));
  t.notMatch(key.publicKey + key.secretKey, fingerprint(key));
});

t.test("readKeyFile() refuses what others can read, and what is no key, without a word of it", async (t) => {
  const path = join(t.testdir(), "run.key");
  const { secretKey } = writeKeyFile(path);
  for (const mode of [0o640, 0o604, 0o660]) {
    chmodSync(path, mode);
    t.throws(() => readKeyFile(path), { name: "UsageError", message: /chmod 600 .*run\.key/ });
  }
  chmodSync(path, 0o600);
  for (const text of ["", secretKey, `{"secretKey": "${secretKey}"`, JSON.stringify({ secretKey }), "[]"]) {
    writeFileSync(path, text);
    try {
      readKeyFile(path);
      t.fail("is no key file");
    } catch (error) {
      t.match((error as Error).message, /must be what lockstep keygen writes/);
      t.notOk(String((error as Error).stack).includes(secretKey));
      t.equal((error as Error).cause, undefined);
    }
  }
  t.throws(() => readKeyFile(`${path}2`), /Cannot read key file .*lockstep keygen writes a new one/);
});

t.test("keyOf() takes the flag before the environment variable, and neither as no key", async (t) => {
  const dir = t.testdir();
  const [a, b] = ["a.key", "b.key"].map((name) => join(dir, name));
  const [keyA, keyB] = [writeKeyFile(a), writeKeyFile(b)];
  t.teardown(() => delete process.env[KEY_VARIABLE]);
  delete process.env[KEY_VARIABLE];
  t.equal(keyOf(null), null);
  process.env[KEY_VARIABLE] = b;
  t.same(keyOf(null), { file: b, key: keyB });
  t.same(keyOf(a), { file: a, key: keyA });
});
