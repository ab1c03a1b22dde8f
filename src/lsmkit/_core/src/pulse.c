/* pulse.c: the file PULSE: see pulse.h. */
#include "pulse.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "bytes.h"

enum { PULSE_BYTES = 24, PATH_BYTES = 4096 };

static void path_of(const char *dir, char out[PATH_BYTES])
{
    (void)snprintf(out, PATH_BYTES, "%.*s/PULSE", PATH_BYTES - 8, dir);
}

lk_status lk_pulse_open(lk_env *env, const char *dir, lk_file **out, lk_error *err)
{
    char path[PATH_BYTES];
    path_of(dir, path);
    return lk_env_open(env, path, LK_OPEN_WRITE | LK_OPEN_CREATE, out, err);
}

lk_status lk_pulse_begin(lk_env *env, lk_file *file, uint64_t generation, uint64_t edits,
                         lk_error *err)
{
    uint8_t bytes[PULSE_BYTES];
    lk_env_random(env, bytes, 8);
    lk_store64(bytes + 8, generation);
    lk_store64(bytes + 16, edits);
    return lk_file_write(file, 0, bytes, sizeof bytes, err);
}

lk_status lk_pulse_generation(lk_file *file, uint64_t generation, lk_error *err)
{
    uint8_t bytes[8];
    lk_store64(bytes, generation);
    return lk_file_write(file, 8, bytes, sizeof bytes, err);
}

lk_status lk_pulse_edits(lk_file *file, uint64_t edits, lk_error *err)
{
    uint8_t bytes[8];
    lk_store64(bytes, edits);
    return lk_file_write(file, 16, bytes, sizeof bytes, err);
}

/* At its first use the file is read, so that one that cannot be is an error, and then mapped. */
static lk_status place_find(lk_pulse_place *p, lk_env *env, const char *dir, bool may_map,
                            bool *out_found, lk_error *err)
{
    char path[PATH_BYTES];
    uint8_t bytes[PULSE_BYTES];
    size_t got;
    path_of(dir, path);
    lk_status st = lk_env_open(env, path, LK_OPEN_READ, &p->file, err);
    if (st == LK_NOT_FOUND) return LK_OK;
    if (st != LK_OK) return st;
    p->env = env;
    *out_found = true;
    st = lk_file_read(p->file, 0, bytes, sizeof bytes, &got, err);
    if (st == LK_OK && got == sizeof bytes && may_map) {
        if (lk_file_map(p->file, PULSE_BYTES, false, &p->map, NULL) != LK_OK) p->map = NULL;
    }
    return st;
}

static uint64_t mapped_word(const uint8_t *map, unsigned i)
{
    const _Atomic(uint64_t) *words = (const void *)map;
    uint64_t word = atomic_load_explicit(&words[i], memory_order_acquire);
    uint8_t bytes[8];
    memcpy(bytes, &word, sizeof bytes);
    return lk_load64(bytes);
}

lk_status lk_pulse_read(lk_pulse_place *p, lk_env *env, const char *dir, bool may_map,
                        lk_pulse *out, bool *out_known, lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t bytes[PULSE_BYTES] = {0};
    size_t got;
    *out = (lk_pulse){0};
    *out_known = p->file != NULL;
    if (p->file == NULL) LK_TRY(place_find(p, env, dir, may_map, out_known, err));
    if (p->file == NULL) goto done;
    if (p->map != NULL) {
        *out = (lk_pulse){
            .owner = mapped_word(p->map, 0),
            .generation = mapped_word(p->map, 1),
            .edits = mapped_word(p->map, 2),
        };
        goto done;
    }
    LK_TRY(lk_file_read(p->file, 0, bytes, sizeof bytes, &got, err));
    *out = (lk_pulse){
        .owner = lk_load64(bytes),
        .generation = lk_load64(bytes + 8),
        .edits = lk_load64(bytes + 16),
    };
    *out_known = got == sizeof bytes;
done:
    return st;
}

void lk_pulse_leave(lk_pulse_place *p)
{
    if (p->env != NULL) lk_env_unmap(p->env, p->map, PULSE_BYTES);
    lk_file_close(p->file);
    *p = (lk_pulse_place){.file = NULL};
}
