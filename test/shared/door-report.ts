// deno run --allow-all dist/test/shared/door-report.js
import { report } from "./door-checks.ts";

console.log(JSON.stringify(await report()));
process.exit(0);
