import { execFileSync } from "node:child_process";
import { closeSync, constants, mkdirSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { PeerFile, SharedFile } from "../../worker/shared-file.ts";

const skip = process.platform === "linux" ? false : "shared memory needs Linux";
const TOKEN = "0123456789abcdef".repeat(2);

const own = SharedFile.create();
t.teardown(() => own?.close());

t.test("PeerFile reads what another worker of this host has written", { skip }, async (t) => {
  if (own === null) return t.comment("SKIPPED: there is no tmpfs at /dev/shm");
  own.turn();
  const values = Float32Array.of(1, 2, 3);
  const at = own.write(values);
  const peer = PeerFile.open(own.address);
  if (peer === null) throw new Error("It cannot be read");
  const target = new Float32Array(3);
  peer.read(at, target);
  t.same(target, values);
  t.equal(peer.holds(at, 12), true);
  t.equal(peer.holds(2 ** 48, 12), false, "a place that is none");
  peer.close();
  t.equal(PeerFile.open({ ...own.address, token: TOKEN }), null, "another token");
  t.equal(PeerFile.open({ ...own.address, token: "" }), null, "no token");
});

t.test("PeerFile takes nothing but a file that begins with the token", { skip }, async (t) => {
  const dir = t.testdir();
  const pathOf = (path: string, flags: number): string => {
    const fd = openSync(path, flags);
    t.teardown(() => closeSync(fd));
    return `/proc/${process.pid}/fd/${fd}`;
  };
  const fifo = join(dir, "fifo");
  execFileSync("mkfifo", [fifo]);
  const folder = join(dir, "folder");
  mkdirSync(folder);
  const short = join(dir, "short");
  writeFileSync(short, TOKEN.slice(1));
  const good = join(dir, "good");
  writeFileSync(good, TOKEN);
  const { O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY } = constants;
  for (const [what, path] of [
    ["a pipe that nobody writes to", pathOf(fifo, O_RDONLY | O_NONBLOCK)],
    ["a pipe in which nothing is", pathOf(fifo, O_RDWR)],
    ["a folder", pathOf(folder, O_RDONLY)],
    ["a device", pathOf("/dev/zero", O_RDONLY)],
    ["a terminal, or none", `/proc/${process.pid}/fd/0`],
    ["a file that is too short", pathOf(short, O_RDONLY)],
    ["a file that cannot be there", `/proc/${process.pid}/fd/99999`],
    ["a process that is none", "/proc/4194305/fd/1"],
    ["a path outside of /proc", good],
    ["a path that leads out of it", `/proc/1/fd/../../..${good}`],
  ]) {
    t.equal(PeerFile.open({ path, token: TOKEN }), null, what);
  }
  const file = PeerFile.open({ path: pathOf(good, O_WRONLY), token: TOKEN });
  t.not(file, null, "the right one");
  file?.close();
});
