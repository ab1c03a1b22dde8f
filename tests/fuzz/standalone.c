/* standalone.c: runs a fuzz target without libFuzzer: replays a corpus, then changes its inputs.
 *
 * Callers   every tests/fuzz/fuzz_<T>.c, built with the address and undefined behaviour sanitizers.
 *
 *     fuzz_block [--seconds N] [--found DIR] INPUT|DIR...
 *
 * Without --seconds each input is run once. With it, inputs are then changed blindly (bits, runs of
 * bytes, numbers at their edges, lengths, pieces of other inputs) until the time is over. Each
 * changed input is in DIR/candidate while it runs, so that a crash leaves it there.
 * LK_SEED repeats a run.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { INPUT_BYTES_MAX = 1 << 20, INPUTS_MAX = 65536, PATH_BYTES = 4096, ROUNDS_A_CLOCK = 64 };

typedef struct input {
    uint8_t *data;
    size_t bytes;
} input;

static struct {
    input inputs[INPUTS_MAX];
    size_t count;
    uint64_t rng;
    char candidate[PATH_BYTES];
} fuzz;

static uint64_t next_random(void)
{
    uint64_t x = fuzz.rng;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    fuzz.rng = x;
    return x * UINT64_C(0x2545F4914F6CDD1D);
}

static size_t below(size_t n) { return n == 0 ? 0 : (size_t)((next_random() >> 11) % n); }

static void die(const char *what, const char *path)
{
    fprintf(stderr, "%s: %s\n", what, path);
    exit(2);
}

static void keep_input(const uint8_t *data, size_t bytes)
{
    if (fuzz.count == INPUTS_MAX) return;
    /* A block of its own, of exactly its size, so that reading one byte too many is seen. */
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    if (copy == NULL) die("no memory for", "an input");
    if (bytes > 0) memcpy(copy, data, bytes);
    fuzz.inputs[fuzz.count++] = (input){copy, bytes};
}

static void load_file(const char *path)
{
    static uint8_t buffer[INPUT_BYTES_MAX];
    FILE *file = fopen(path, "rb");
    if (file == NULL) die("cannot open", path);
    size_t bytes = fread(buffer, 1, sizeof buffer, file);
    fclose(file);
    keep_input(buffer, bytes);
}

static void load(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) die("no such input", path);
    if (!S_ISDIR(info.st_mode)) {
        load_file(path);
        return;
    }
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) die("cannot list", path);
    for (int i = 0; i < count; i++) {
        char inner[PATH_BYTES];
        int length = snprintf(inner, sizeof inner, "%s/%s", path, entries[i]->d_name);
        if (length >= (int)sizeof inner) die("path too long in", path);
        if (entries[i]->d_name[0] != '.') load(inner);
        free(entries[i]);
    }
    free(entries);
}

/* One change of one of the kinds that break parsers; returns the new length. */
static size_t change(uint8_t *data, size_t bytes)
{
    static const uint64_t EDGES[] = {0,           1,           0x7f,       0x80,
                                     0xff,        0x7fff,      0xffff,     0x7fffffff,
                                     0x80000000u, 0xffffffffu, UINT64_MAX, UINT64_MAX >> 1};
    size_t at = below(bytes), run = 1 + below(16);
    const input *other = &fuzz.inputs[below(fuzz.count)];
    switch (bytes == 0 ? 5 : below(7)) {
    case 0:
        data[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        data[at] = (uint8_t)next_random();
        break;
    case 2: {
        uint64_t edge = EDGES[below(sizeof EDGES / sizeof *EDGES)] + below(3) - 1;
        size_t width = (size_t)1 << below(4);
        if (at + width <= bytes) memcpy(data + at, &edge, width);
        break;
    }
    case 3: /* cut */
        bytes = at;
        break;
    case 4: /* take a run out */
        if (run > bytes - at) run = bytes - at;
        memmove(data + at, data + at + run, bytes - at - run);
        bytes -= run;
        break;
    case 5: /* put random bytes in */
        if (bytes + run > INPUT_BYTES_MAX) break;
        memmove(data + at + run, data + at, bytes - at);
        for (size_t i = 0; i < run; i++) data[at + i] = (uint8_t)next_random();
        bytes += run;
        break;
    default: { /* a piece of another input over this one */
        size_t from = below(other->bytes), piece = 1 + below(64);
        if (piece > other->bytes - from) piece = other->bytes - from;
        if (piece > bytes - at) piece = bytes - at;
        if (piece > 0) memcpy(data + at, other->data + from, piece);
        break;
    }
    }
    return bytes;
}

/* Kept on disk before it runs: a crash takes this process with it. */
static void note_candidate(const uint8_t *data, size_t bytes)
{
    if (fuzz.candidate[0] == '\0') return;
    FILE *file = fopen(fuzz.candidate, "wb");
    if (file == NULL) die("cannot write", fuzz.candidate);
    if (fwrite(data, 1, bytes, file) != bytes) die("cannot write", fuzz.candidate);
    fclose(file);
}

static void run_one(const uint8_t *data, size_t bytes)
{
    uint8_t *exact = malloc(bytes > 0 ? bytes : 1);
    if (exact == NULL) die("no memory for", "an input");
    if (bytes > 0) memcpy(exact, data, bytes);
    LLVMFuzzerTestOneInput(exact, bytes);
    free(exact);
}

static size_t run_changed(unsigned seconds)
{
    static uint8_t buffer[INPUT_BYTES_MAX];
    time_t end = time(NULL) + (time_t)seconds;
    size_t runs = 0;
    if (fuzz.count == 0) keep_input((const uint8_t *)"", 0);
    while (time(NULL) < end) {
        for (int i = 0; i < ROUNDS_A_CLOCK; i++, runs++) {
            const input *from = &fuzz.inputs[below(fuzz.count)];
            size_t bytes = from->bytes;
            if (bytes > 0) memcpy(buffer, from->data, bytes);
            for (size_t changes = 1 + below(4); changes > 0; changes--) {
                bytes = change(buffer, bytes);
            }
            note_candidate(buffer, bytes);
            run_one(buffer, bytes);
        }
    }
    if (fuzz.candidate[0] != '\0') unlink(fuzz.candidate);
    return runs;
}

int main(int argc, char **argv)
{
    const char *seed = getenv("LK_SEED");
    unsigned seconds = 0;
    fuzz.rng =
        seed != NULL ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
    if (fuzz.rng == 0) fuzz.rng = 1;
    uint64_t first = fuzz.rng;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
            seconds = (unsigned)strtoul(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--found") == 0 && i + 1 < argc) {
            snprintf(fuzz.candidate, sizeof fuzz.candidate, "%s/candidate", argv[++i]);
        } else {
            load(argv[i]);
        }
    }
    for (size_t i = 0; i < fuzz.count; i++) run_one(fuzz.inputs[i].data, fuzz.inputs[i].bytes);
    printf("%s: %zu inputs of the corpus", argv[0], fuzz.count);
    if (seconds > 0) {
        printf(", LK_SEED=%llu", (unsigned long long)first);
        fflush(stdout);
        printf(", %zu changed ones", run_changed(seconds));
    }
    printf(": no fault\n");
    for (size_t i = 0; i < fuzz.count; i++) free(fuzz.inputs[i].data);
    return 0;
}
