/* pulse.c: the file PULSE: see pulse.h. */
#include "pulse.h"

#include <stdio.h>

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

lk_status lk_pulse_read(lk_env *env, const char *dir, lk_file **file, lk_pulse *out,
                        bool *out_known, lk_error *err)
{
    lk_status st = LK_OK;
    uint8_t bytes[PULSE_BYTES] = {0};
    size_t got;
    *out = (lk_pulse){0};
    *out_known = false;
    if (*file == NULL) {
        char path[PATH_BYTES];
        path_of(dir, path);
        st = lk_env_open(env, path, LK_OPEN_READ, file, err);
        if (st == LK_NOT_FOUND) return LK_OK;
        if (st != LK_OK) return st;
    }
    LK_TRY(lk_file_read(*file, 0, bytes, sizeof bytes, &got, err));
    *out = (lk_pulse){
        .owner = lk_load64(bytes),
        .generation = lk_load64(bytes + 8),
        .edits = lk_load64(bytes + 16),
    };
    *out_known = got == sizeof bytes;
done:
    return st;
}
