// A real mesh: `seine up examples/billing`, in folders of its own.

import { spawn, type ChildProcess } from "node:child_process";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** BIN is where make build puts the programs, and ui/run.sh the example's. */
const BIN = process.env.SEINE_BIN ?? join(root, "bin");

export interface Demo {
  /** url opens the dashboard; it holds the token. */
  url: string;
  /** mesh is the file with the routes, which may be changed. */
  mesh: string;
  close: () => Promise<void>;
}

async function freePort(): Promise<number> {
  const s = createServer();
  await new Promise<void>((up) => s.listen(0, "127.0.0.1", up));
  const { port } = s.address() as AddressInfo;
  await new Promise((down) => s.close(down));
  return port;
}

/** up starts the example and returns once all of it is ready. */
export async function up(): Promise<Demo> {
  const dir = await mkdtemp(join(tmpdir(), "seine-ui-"));
  const files = join(dir, "billing");
  for (const f of ["mesh.yaml", "services.yaml", "workloads.yaml"]) await cp(join(root, "examples/billing", f), join(files, f));
  // The example's published port may be somebody else's on this machine.
  const workloads = join(files, "workloads.yaml");
  const published = "publish: [{port: 8080,";
  const text = await readFile(workloads, "utf8");
  if (!text.includes(published)) throw new Error(`${workloads} has no ${published}`);
  await writeFile(workloads, text.replace(published, `publish: [{port: ${await freePort()},`));

  const run = join(dir, "run");
  const mesh: ChildProcess = spawn(join(BIN, "seine"), ["up", "--run-dir", run, "--state-dir", join(dir, "state"), "--web", "127.0.0.1:0", "--logs", "keep", files], {
    env: { ...process.env, PATH: `${BIN}:${process.env.PATH ?? ""}` },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = new Promise<void>((end) => mesh.once("exit", () => end()));
  const close = async (): Promise<void> => {
    if (mesh.exitCode === null) mesh.kill("SIGINT");
    await ended;
    await rm(dir, { recursive: true, force: true });
  };
  let said = "";
  const ready = new Promise<void>((done, fail) => {
    const late = setTimeout(() => fail(new Error(`the demo is not ready after 90 s:\n${said}`)), 90_000);
    const read = (piece: Buffer): void => {
      said += piece.toString();
      if (!/^ready: \d+ instances/m.test(said)) return;
      clearTimeout(late);
      done();
    };
    mesh.stdout?.on("data", read);
    mesh.stderr?.on("data", read);
    mesh.once("error", fail);
    mesh.once("exit", () => fail(new Error(`seine up ended:\n${said}`)));
  });
  try {
    await ready;
    return { url: (await readFile(join(run, "dashboard"), "utf8")).trim(), mesh: join(files, "mesh.yaml"), close };
  } catch (e) {
    await close();
    throw e;
  }
}
