/* Runs a fuzz target without libFuzzer: every file of the corpus folder, then for the given seconds
 * mutations of them (bytes flipped, removed, doubled, swapped between files), from a fixed seed. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_FILES = 256, MAX_BYTES = 1 << 16 };

struct input {
    unsigned char *bytes;
    size_t size;
};

static int load(const char *folder, struct input *inputs)
{
    int count = 0;
    DIR *directory = opendir(folder);
    const struct dirent *entry = NULL;
    while (directory != NULL && count < MAX_FILES && (entry = readdir(directory)) != NULL) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (file != NULL) {
            inputs[count].bytes = malloc(MAX_BYTES);
            inputs[count].size = fread(inputs[count].bytes, 1, MAX_BYTES, file);
            fclose(file);
            count++;
        }
    }
    if (directory != NULL) {
        closedir(directory);
    }
    return count;
}

/* A copy of exactly the input's size, so that the address sanitizer sees a read behind its end. */
static void run_once(const unsigned char *bytes, size_t size)
{
    unsigned char *copy = malloc(size > 0 ? size : 1);
    memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static size_t mutate(struct hlm_rng *rng, const struct input *inputs, int count,
                     unsigned char *bytes, size_t size)
{
    for (int64_t edits = hlm_rng_next_int(rng, 1, 6); edits > 0 && size > 1; edits--) {
        const size_t at = (size_t)hlm_rng_next_int(rng, 0, (int64_t)size - 1);
        const size_t length = (size_t)hlm_rng_next_int(rng, 1, (int64_t)(size - at));
        const struct input *other = &inputs[hlm_rng_next_int(rng, 0, count - 1)];
        switch (hlm_rng_next_int(rng, 0, 3)) {
        case 0:
            bytes[at] = (unsigned char)hlm_rng_next_int(rng, 0, 255);
            break;
        case 1:
            memmove(bytes + at, bytes + at + length, size - at - length);
            size -= length;
            break;
        case 2:
            if (size + length <= MAX_BYTES) {
                memmove(bytes + at + length, bytes + at, size - at);
                size += length;
            }
            break;
        default:
            if (other->size > 0) {
                const size_t n = length < other->size ? length : other->size;
                memcpy(bytes + at, other->bytes, n);
            }
            break;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    static struct input inputs[MAX_FILES];
    const int count = argc == 3 ? load(argv[2], inputs) : 0;
    if (count == 0) {
        fprintf(stderr, "usage: %s SECONDS CORPUS (a folder with at least one file)\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        run_once(inputs[i].bytes, inputs[i].size);
    }
    const clock_t end = clock() + (clock_t)(strtod(argv[1], NULL) * CLOCKS_PER_SEC);
    struct hlm_rng rng = {.key = 1};
    unsigned char *bytes = malloc(MAX_BYTES);
    int64_t runs = count;
    for (; clock() < end; runs++) {
        const struct input *from = &inputs[hlm_rng_next_int(&rng, 0, count - 1)];
        memcpy(bytes, from->bytes, from->size);
        run_once(bytes, mutate(&rng, inputs, count, bytes, from->size));
    }
    free(bytes);
    for (int i = 0; i < count; i++) {
        free(inputs[i].bytes);
    }
    printf("%lld inputs, no finding\n", (long long)runs);
    return 0;
}
