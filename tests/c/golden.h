/* golden.h: texts that stand in the tree and must not change unnoticed. Include after harness.h.
 *
 * A golden test makes a text and compares it with tests/golden/<name>. LK_BLESS=1 in the
 * environment rewrites the file instead; the difference is then looked at before it is committed.
 * Examples in documents are hexadecimal lines between two marks, so that what a reader sees is what
 * the test decodes.
 */
#ifndef LK_GOLDEN_H
#define LK_GOLDEN_H

/* A text that grows; free(text). */
typedef struct golden_text {
    char *text;
    size_t len;
} golden_text;

static void golden_add(golden_text *t, const char *line)
{
    size_t n = strlen(line);
    t->text = realloc(t->text, t->len + n + 2);
    CHECK(t->text != NULL);
    memcpy(t->text + t->len, line, n);
    memcpy(t->text + t->len + n, "\n", 2);
    t->len += n + 1;
}

/* For functions that print lines to a callback. */
LK_TEST_UNUSED static void golden_print(void *context, const char *line)
{
    golden_add((golden_text *)context, line);
}

/* Path of a file of the tree, from its top. */
static const char *golden_path(char *out, const char *name)
{
    static const char HERE[] = __FILE__;
    size_t top = strlen(HERE) - strlen("tests/c/golden.h");
    int n = snprintf(out, LK_TEST_PATH_BYTES, "%.*s%s", (int)top, HERE, name);
    CHECK(n > 0 && n < LK_TEST_PATH_BYTES);
    return out;
}

/* The whole file as text, or NULL when it is not there. The caller frees it. */
static char *golden_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) return NULL;
    CHECK(fseek(file, 0, SEEK_END) == 0);
    long size = ftell(file);
    CHECK(size >= 0);
    rewind(file);
    char *text = malloc((size_t)size + 1);
    CHECK(text != NULL && fread(text, 1, (size_t)size, file) == (size_t)size);
    text[size] = 0;
    (void)fclose(file);
    return text;
}

LK_TEST_UNUSED static void golden_check(const char *name, const golden_text *made)
{
    char path[LK_TEST_PATH_BYTES], relative[LK_TEST_PATH_BYTES];
    (void)snprintf(relative, sizeof relative, "tests/golden/%s", name);
    golden_path(path, relative);
    if (getenv("LK_BLESS") != NULL) {
        FILE *file = fopen(path, "wb");
        CHECK(file != NULL && fwrite(made->text, 1, made->len, file) == made->len);
        CHECK(fclose(file) == 0);
        return;
    }
    char *stored = golden_read(path);
    if (stored == NULL) {
        lk_test_fail(__FILE__, __LINE__, "%s is not there; LK_BLESS=1 makes it", path);
    }
    const char *a = stored, *b = made->text;
    int line = 1;
    for (; *a != 0 && *a == *b; a++, b++) line += *a == '\n';
    if (*a != *b) {
        while (a > stored && a[-1] != '\n') {
            a--;
            b--;
        }
        lk_test_fail(path, line, "golden text differs:\n    stored %.*s\n    made   %.*s",
                     (int)strcspn(a, "\n"), a, (int)strcspn(b, "\n"), b);
    }
    free(stored);
}

static int golden_hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes of the example `name` in docs/FORMAT.md (or `other`, beside it): the pairs of hexadecimal
 * digits between "<!-- example: name -->" and "<!-- end -->", of each line those between its first
 * two bars: "offset | bytes | meaning". Returns how many. */
LK_TEST_UNUSED static size_t golden_example(const char *name, const char *other, uint8_t *out,
                                            size_t out_bytes)
{
    static const char *const PLACES[] = {"docs/FORMAT.md", NULL};
    char path[LK_TEST_PATH_BYTES], mark[128];
    (void)snprintf(mark, sizeof mark, "<!-- example: %s -->", name);
    char *text = NULL, *at = NULL;
    for (int i = 0; i < 2 && at == NULL; i++) {
        free(text);
        text = golden_read(golden_path(path, i == 0 ? PLACES[0] : other));
        at = text != NULL ? strstr(text, mark) : NULL;
    }
    if (at == NULL) lk_test_fail(__FILE__, __LINE__, "no document has \"%s\"", mark);
    char *end = strstr(at, "<!-- end -->");
    CHECK(end != NULL);
    size_t n = 0;
    for (char *line = strchr(at, '\n'); line != NULL && line < end; line = strchr(line + 1, '\n')) {
        char *from = line + 1 + strcspn(line + 1, "|\n");
        if (*from != '|') continue;
        for (char *p = from + 1; *p != '|' && *p != '\n'; p++) {
            if (golden_hex(p[0]) < 0 || golden_hex(p[1]) < 0) continue;
            CHECK(n < out_bytes);
            out[n++] = (uint8_t)(golden_hex(p[0]) << 4 | golden_hex(p[1]));
            p++;
        }
    }
    free(text);
    return n;
}

#endif
