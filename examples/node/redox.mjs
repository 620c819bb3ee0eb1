// Searches patients at Redox, with access tokens that it reads from Vault. For
// each family name on standard input it prints how many were found.
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const { VAULT_ADDR, VAULT_TOKEN = "", VAULT_TOKEN_FILE, REDOX_FHIR_BASE } = process.env;

let token; // the last one: { value, renewAt, endsAt }
let reading; // the promise of the next one, shared by all who wait for it

// accessToken returns the last token, and reads a new one first when it is time.
async function accessToken() {
  if (token && performance.now() < token.renewAt) return token.value;
  reading ??= nextToken().finally(() => (reading = undefined));
  return (await reading).value;
}

// nextToken reads until there is a token.
async function nextToken() {
  for (let pause = 1; ; pause *= 2) {
    try {
      return (token = await readToken());
    } catch (error) {
      if (error.keepsOld && token && performance.now() < token.endsAt) return token; // it is still valid
      if (!error.mayPass || pause > 8) throw error;
    }
    await sleep(pause * 1000);
  }
}

// readToken reads a token from Vault. Its error tells in keepsOld whether the old one may
// be used, and in mayPass whether to try again.
async function readToken() {
  let vaultToken = VAULT_TOKEN;
  if (VAULT_TOKEN_FILE) { // each time, as Vault Agent replaces it
    try {
      vaultToken = await readFile(VAULT_TOKEN_FILE, "utf8");
    } catch (error) {
      throw Object.assign(new Error(`VAULT_TOKEN_FILE: ${error.message}`), { keepsOld: true });
    }
  }
  const asked = performance.now(); // the token's life may begin at once
  const { status, answer } = await send(`${VAULT_ADDR}/v1/redox/token`, { "X-Vault-Token": vaultToken.trim() });
  const { access_token, ttl, expires_in } = answer?.data ?? {};
  if (status === 200 && access_token) {
    return { value: access_token, renewAt: asked + ttl * 1000, endsAt: asked + expires_in * 1000 };
  }
  const reason = answer?.errors?.join?.("; ") ?? "no answer that makes sense"; // Vault says what to fix
  const noPlugin = status === 404 && reason.includes("no handler for route"); // on this node of Vault
  const mayPass = status === 200 || status === 429 || !(status < 500) || noPlugin;
  throw Object.assign(new Error(`reading redox/token: HTTP ${status}: ${reason}`), { mayPass, keepsOld: mayPass });
}

// patients searches by family name. A token that Redox refuses is replaced once.
async function patients(family) {
  for (let attempt = 1; ; attempt++) {
    const value = await accessToken();
    const { status, answer } = await send(`${REDOX_FHIR_BASE}/Patient/_search`,
      { Authorization: `Bearer ${value}` }, new URLSearchParams({ family }));
    if (status === 200 && answer?.total >= 0) return answer;
    if (status !== 401 || attempt > 1) throw new Error(`searching patients: HTTP ${status}`);
    if (token?.value === value) token = undefined; // another search may have replaced it already
  }
}

// send makes a request: a POST if there is a form. Without an answer there is no status.
async function send(url, headers, form) {
  let status;
  try {
    const response = await fetch(url, {
      method: form ? "POST" : "GET", body: form, headers, signal: AbortSignal.timeout(30_000),
    });
    status = response.status;
    return { status, answer: await response.json() };
  } catch {
    return { status };
  }
}

try {
  if (!VAULT_ADDR || !REDOX_FHIR_BASE) throw new Error("set VAULT_ADDR and REDOX_FHIR_BASE");
  for await (const family of createInterface({ input: process.stdin })) {
    console.log(`${family}: ${(await patients(family)).total} found`);
  }
} catch (error) {
  console.error(`redox.mjs: ${error.message}`);
  process.exit(1);
}
