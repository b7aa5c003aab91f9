import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import t from "tap";

const { scripts } = JSON.parse(readFileSync("package.json", "utf8")) as {
  scripts: Readonly<Record<string, string>>;
};
const pages = ["README.md", ...readdirSync("docs").map((name) => join("docs", name))].filter((path) =>
  path.endsWith(".md"),
);

t.test(
  "every link of the documentation leads to a file, and every script that it names is there",
  async (t) => {
    let numLinks = 0;
    for (const page of pages) {
      const text = readFileSync(page, "utf8");
      for (const [, target] of text.matchAll(/\]\((?!https?:)([^)#]+)/g)) {
        t.ok(existsSync(join(dirname(page), target)), `${page}: ${target}`);
        numLinks += 1;
      }
      for (const [, name] of text.matchAll(/npm run ([\w:-]*\w)/g))
        t.ok(name in scripts, `${page}: npm run ${name}`);
      for (const [, built] of text.matchAll(/dist\/([\w/.-]+)\.js/g)) {
        t.ok(existsSync(`${built}.ts`), `${page}: dist/${built}.js`);
      }
    }
    t.ok(numLinks > 50, `${numLinks} links`);
  },
);
