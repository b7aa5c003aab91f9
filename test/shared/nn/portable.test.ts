import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t from "tap";

const CORE = new URL("../../../shared/nn/", import.meta.url);

/** All modules that a module imports, itself included, and the names of those that are no files. */
function imported(module: URL, files = new Set<string>(), others = new Set<string>()): typeof others {
  if (files.has(module.href)) return others;
  files.add(module.href);
  const text = readFileSync(fileURLToPath(module), "utf8");
  for (const [, name] of text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)) {
    if (name.startsWith(".")) imported(new URL(name, module), files, others);
    else others.add(name);
  }
  return others;
}

t.test("the numerical core imports nothing but itself, so that it runs in a page", async (t) => {
  const modules = readdirSync(CORE, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".js"),
  );
  t.ok(modules.length > 15, `${modules.length} modules`);
  for (const name of modules) t.same([...imported(new URL(name, CORE))], [], name);
});
