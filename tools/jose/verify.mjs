// Reads {"jwks" or "jwksURL", "issuer", "audience", "assertions"} from standard
// input and checks them with the npm package jose: each key's kid is its RFC
// 7638 thumbprint, and each assertion verifies against the set, which jose
// fetches itself from a URL. Prints what it saw.
import { calculateJwkThumbprint, createLocalJWKSet, createRemoteJWKSet, jwtVerify } from "jose";

let text = "";
for await (const chunk of process.stdin) text += chunk;
const { jwks: given, jwksURL, issuer, audience, assertions } = JSON.parse(text);

let jwks = given;
let keys;
if (jwksURL) {
  keys = createRemoteJWKSet(new URL(jwksURL));
  await keys.reload();
  jwks = keys.jwks();
} else {
  keys = createLocalJWKSet(jwks);
}
for (const jwk of jwks.keys) {
  const thumbprint = await calculateJwkThumbprint(jwk, "sha256");
  if (thumbprint !== jwk.kid) throw new Error(`kid ${jwk.kid} is not the thumbprint ${thumbprint}`);
}
const seen = [];
for (const assertion of assertions) {
  const { payload, protectedHeader } = await jwtVerify(assertion, keys, {
    algorithms: ["RS384"], typ: "JWT", issuer, subject: issuer, audience,
    requiredClaims: ["iat", "exp", "jti"], maxTokenAge: "5m",
  });
  if (payload.exp - payload.iat > 300) throw new Error("an assertion lives longer than five minutes");
  seen.push({ kid: protectedHeader.kid, jti: payload.jti });
}
console.log(JSON.stringify({ keys: jwks.keys.length, seen }));
