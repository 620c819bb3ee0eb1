import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Collectors;

/**
 * Searches patients at Redox, with access tokens that it reads from Vault. For each
 * family name on standard input it prints how many were found. It is safe for many threads.
 */
public final class Redox {
    private static final String VAULT_ADDR = env("VAULT_ADDR"), REDOX_FHIR_BASE = env("REDOX_FHIR_BASE");

    /** A token, when to read the next one, and when Redox refuses this one: in System.nanoTime(). */
    private record Token(String value, long renewAt, long endsAt) {
        boolean isFresh() { return System.nanoTime() - renewAt < 0; }

        boolean isAlive() { return System.nanoTime() - endsAt < 0; }
    }

    /** A request that failed, with its HTTP status, or 0 if no usable answer came. */
    private static final class Failure extends Exception {
        /** There is no Vault token, so Vault cannot be asked: waiting does not help. */
        static final int NOT_ASKED = -1;

        final int status;
        /** Whether it may be temporary, so that another try makes sense. */
        final boolean mayPass;

        Failure(String message, int status) {
            super(message);
            this.status = status;
            // A node of Vault that lacks the plugin's file answers 404, and another one may have it.
            mayPass = status == 0 || status == 429 || status >= 500
                || status == 404 && message.contains("no handler for route");
        }
    }

    private final HttpClient http = HttpClient.newBuilder()
        .version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(10)).build();
    private final AtomicReference<Token> last = new AtomicReference<>();
    private final ReentrantLock reading = new ReentrantLock(); // one thread at a time asks Vault

    /** Returns the last token, and reads a new one first when it is time. */
    String accessToken() throws Failure, InterruptedException {
        Token old = last.get();
        if (old != null && old.isFresh()) return old.value();
        if (old == null || !old.isAlive()) {
            reading.lockInterruptibly();
        } else if (!reading.tryLock()) {
            return old.value(); // another thread reads the next one
        }
        try {
            for (int pause = 1;; pause *= 2) {
                old = last.get();
                if (old != null && old.isFresh()) return old.value(); // another thread has read it
                try {
                    Token next = read();
                    last.set(next);
                    return next.value();
                } catch (Failure failure) {
                    boolean keepsOld = failure.mayPass || failure.status == Failure.NOT_ASKED;
                    if (keepsOld && old != null && old.isAlive()) return old.value(); // it does as long as it lives
                    if (!failure.mayPass || pause > 8) throw failure;
                }
                Thread.sleep(pause * 1000L);
            }
        } finally {
            reading.unlock();
        }
    }

    /** Reads a token from Vault. */
    private Token read() throws Failure, InterruptedException {
        String vaultToken = env("VAULT_TOKEN");
        String file = env("VAULT_TOKEN_FILE");
        if (!file.isEmpty()) { // each time, as Vault Agent replaces it
            try {
                vaultToken = Files.readString(Path.of(file));
            } catch (IOException | IllegalArgumentException e) {
                throw new Failure("VAULT_TOKEN_FILE: " + e.getClass().getSimpleName() + ": " + file, Failure.NOT_ASKED);
            }
        }
        long asked = System.nanoTime(); // the token's life may begin at once
        String url = VAULT_ADDR + "/v1/redox/token";
        Map<?, ?> answer = send(url, "X-Vault-Token", vaultToken.strip(), null);
        if (answer.get("data") instanceof Map<?, ?> data && data.get("access_token") instanceof String value
            && data.get("ttl") instanceof Number ttl && data.get("expires_in") instanceof Number expiresIn
            && !value.isEmpty()) {
            return new Token(value, asked + ttl.longValue() * 1_000_000_000L,
                asked + expiresIn.longValue() * 1_000_000_000L);
        }
        throw new Failure(url + ": the answer holds no token", 0);
    }

    /** Returns how many patients have the name. If Redox refuses the token, it tries once with a new one. */
    long patients(String family) throws Failure, InterruptedException {
        String url = REDOX_FHIR_BASE + "/Patient/_search";
        String form = "family=" + URLEncoder.encode(family, StandardCharsets.UTF_8);
        Map<?, ?> answer;
        String value = accessToken();
        try {
            answer = send(url, "Authorization", "Bearer " + value, form);
        } catch (Failure failure) {
            if (failure.status != 401) throw failure;
            // Another thread may have replaced it already: that one stays.
            last.updateAndGet(token -> token != null && token.value().equals(value) ? null : token);
            answer = send(url, "Authorization", "Bearer " + accessToken(), form);
        }
        if (answer.get("total") instanceof Number total) return total.longValue();
        throw new Failure(url + ": the answer holds no total", 0);
    }

    /** Returns the JSON object that answers a request: a POST if there is a form. */
    private Map<?, ?> send(String url, String header, String secret, String form)
        throws Failure, InterruptedException {
        HttpResponse<String> response;
        try {
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(30));
            if (!secret.isEmpty()) request.header(header, secret);
            if (form != null) {
                request.header("Content-Type", "application/x-www-form-urlencoded");
                request.POST(HttpRequest.BodyPublishers.ofString(form));
            }
            response = http.send(request.build(), HttpResponse.BodyHandlers.ofString());
        } catch (IOException | IllegalArgumentException e) { // its text may hold a header
            throw new Failure(url + ": " + e.getClass().getSimpleName(), 0);
        }
        Object answer;
        try {
            answer = new Json(response.body()).document();
        } catch (RuntimeException e) {
            answer = null;
        }
        if (response.statusCode() != 200) {
            String reason = "no reason given";
            if (answer instanceof Map<?, ?> object && object.get("errors") instanceof List<?> errors) {
                reason = errors.stream().map(String::valueOf).collect(Collectors.joining("; ")); // what to fix
            }
            throw new Failure(url + ": HTTP " + response.statusCode() + ": " + reason, response.statusCode());
        }
        if (answer instanceof Map<?, ?> object) return object;
        throw new Failure(url + ": the answer is no JSON object", 0);
    }

    /** Reads JSON (RFC 8259), as the JDK does not. If your program has a library for it, use that. */
    private static final class Json {
        private final String text;
        private int at;

        Json(String text) { this.text = text; }

        /** Returns a Map, List, String, BigDecimal, Boolean or null; anything else is a RuntimeException. */
        Object document() {
            Object value = value();
            if (peek() != 0) throw new IllegalArgumentException("more than one value");
            return value;
        }

        private Object value() {
            switch (peek()) {
                case '{' -> {
                    Map<String, Object> object = new HashMap<>();
                    for (char next = open('}'); next != '}'; next = after(',', '}')) {
                        if (peek() != '"') throw new IllegalArgumentException("no name");
                        String name = string();
                        after(':', ':');
                        object.put(name, value());
                    }
                    return object;
                }
                case '[' -> {
                    List<Object> list = new ArrayList<>();
                    for (char next = open(']'); next != ']'; next = after(',', ']')) list.add(value());
                    return list;
                }
                case '"' -> {
                    return string();
                }
                default -> {
                    int from = at;
                    while (at < text.length() && ",]} \t\r\n".indexOf(text.charAt(at)) < 0) at++;
                    String word = text.substring(from, at);
                    return switch (word) {
                        case "true" -> true;
                        case "false" -> false;
                        case "null" -> null;
                        default -> new BigDecimal(word);
                    };
                }
            }
        }

        /** Skips blanks, and returns the next character, or 0 at the end. */
        private char peek() {
            while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
            return at < text.length() ? text.charAt(at) : 0;
        }

        /** Steps into an object or a list, and returns its end if it is empty. */
        private char open(char end) {
            at++;
            return peek() == end ? text.charAt(at++) : ',';
        }

        private char after(char one, char other) {
            char next = peek();
            if (next != one && next != other) throw new IllegalArgumentException("unexpected character");
            at++;
            return next;
        }

        private String string() {
            StringBuilder out = new StringBuilder();
            for (at++; text.charAt(at) != '"'; at++) {
                char c = text.charAt(at);
                if (c == '\\') {
                    c = text.charAt(++at);
                    int special = "bfnrt".indexOf(c);
                    if (special >= 0) {
                        c = "\b\f\n\r\t".charAt(special);
                    } else if (c == 'u') {
                        c = (char) Integer.parseInt(text.substring(at + 1, at + 5), 16);
                        at += 4;
                    }
                }
                out.append(c);
            }
            at++;
            return out.toString();
        }
    }

    private static String env(String name) {
        String value = System.getenv(name);
        return value == null ? "" : value;
    }

    public static void main(String[] args) throws IOException, InterruptedException {
        try {
            if (VAULT_ADDR.isEmpty() || REDOX_FHIR_BASE.isEmpty()) {
                throw new Failure("set VAULT_ADDR and REDOX_FHIR_BASE", Failure.NOT_ASKED);
            }
            Redox redox = new Redox();
            BufferedReader names = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String family = names.readLine(); family != null; family = names.readLine()) {
                System.out.println(family + ": " + redox.patients(family) + " found");
            }
        } catch (Failure failure) {
            System.err.println("Redox.java: " + failure.getMessage());
            System.exit(1);
        }
    }
}
