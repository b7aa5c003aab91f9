/**
 * Takes files out of archives, with the Python that has fetched them: Node
 * has neither zip nor tar.
 *
 * @module
 */
import { runTool } from "./tools.ts";

/** Arguments: archive (.whl or .tgz), folder, then regular expressions for the whole paths of wanted members. */
const UNPACK = `
import os, re, shutil, sys, tarfile, zipfile

archive, folder, *patterns = sys.argv[1:]
wanted = [re.compile(pattern) for pattern in patterns]

def write(path, source):
    if not any(pattern.fullmatch(path) for pattern in wanted) or ".." in path.split("/"):
        return
    target = os.path.join(folder, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with source() as reader, open(target, "wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)

if archive.endswith(".tgz"):
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if member.isfile():
                write(member.name, lambda: tar.extractfile(member))
else:
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            if not name.endswith("/"):
                write(name, lambda: wheel.open(name))
`;

/**
 * Writes the members of an archive whose paths match one of the patterns below a folder.
 *
 * @param patterns Regular expressions for whole paths, in the syntax that JavaScript and Python share.
 */
export async function unpack(
  python: string,
  archive: string,
  folder: string,
  patterns: readonly string[],
): Promise<void> {
  await runTool(`unpack ${archive}`, python, ["-c", UNPACK, archive, folder, ...patterns]);
}
