// The receivers that the dashboard offers, in their real runtimes, against the real product.

import { execFileSync, spawn } from "node:child_process";
import { createServer } from "node:net";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { appliance, eventually, same } from "./scene.mjs";

const DIRECTORY = new URL("../../src/dashboard/snippets/", import.meta.url).pathname;
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

const COMMANDS = {
  "Node.js": () => ["node", `${DIRECTORY}receiver.mjs`],
  Python: () => ["python3", "-u", `${DIRECTORY}receiver.py`],
  Go: (_, scratch) => {
    // Built first: `go run` would leave its child behind.
    const environment = { ...process.env, GOCACHE: join(scratch, "cache"), GOFLAGS: "-mod=mod", GO111MODULE: "off" };
    execFileSync("go", ["build", "-o", join(scratch, "receiver"), `${DIRECTORY}receiver.go`], { env: environment });
    return [join(scratch, "receiver")];
  },
  PHP: (port) => ["php", "-S", `127.0.0.1:${port}`, `${DIRECTORY}receiver.php`],
  Java: () => ["java", `${DIRECTORY}Receiver.java`],
};

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

async function verifies(language) {
  const scratch = mkdtempSync(join(tmpdir(), "posthaste-receiver-"));
  const app = await appliance();
  const port = await freePort();
  const [program, ...words] = COMMANDS[language](port, scratch);
  const child = spawn(program, words, { stdio: "ignore", env: { ...process.env, PORT: String(port), WEBHOOK_SECRET: SECRET } });
  const url = `http://127.0.0.1:${port}/`;
  const post = (body, signature) => fetch(url, { method: "POST", body, headers: signature ? { "x-webhook-signature": signature } : {} });
  try {
    await eventually("the receiver listens", () => post("{}").then(() => true, () => false));
    for (const signature of [undefined, "", "0".repeat(64), "zz", "é".normalize("NFD").slice(0, 1)]) {
      same((await post('{"id":"card_1"}', signature)).status, 401, `a forged request (${signature})`);
    }
    await app.api("PUT", "/config", { url, secret: SECRET });
    const { id } = await app.submit("card_state", { id: "card_1", name: "Zoë “quoted”" });
    await app.status(id, "delivered");
    const { attempt_count: attempts } = await app.api("GET", `/events/${id}`);
    same(attempts, 1, "it is taken at once");
    await app.api("PUT", "/config", { url, secret: "another", secret_grace_seconds: 0 });
    const wrong = await app.submit("card_state", { id: "card_2" });
    await app.status(wrong.id, "retrying");
  } finally {
    child.kill("SIGKILL");
    await app.stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

export const tests = Object.keys(COMMANDS).map((language) => [`the receiver in ${language} tells ours from forged`, () => verifies(language)]);
