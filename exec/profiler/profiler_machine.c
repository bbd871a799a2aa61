#include "exec/profiler/profiler_machine.h"

#include <cblas.h>
#include <ctype.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

enum { MAX_SYSTEM_FILE_BYTES = 1 << 20 };

/* NULL where the system has no such file. */
static const char *read_system(struct hlm_arena *arena, const char *path)
{
    struct hlm_err ignored;
    const char *text = NULL;
    size_t length = 0;
    return hlm_file_read(arena, path, MAX_SYSTEM_FILE_BYTES, &text, &length, &ignored) == HLM_OK
               ? text
               : NULL;
}

/* The process id is the id of its first thread. */
static bool process_cores(cpu_set_t *out)
{
    return sched_getaffinity(getpid(), sizeof *out, out) == 0;
}

static int32_t quota_cores(int32_t cores)
{
    struct hlm_arena *arena = hlm_arena_new();
    const char *text = read_system(arena, "/sys/fs/cgroup/cpu.max");
    int64_t quota = 0, period = 0;
    if (text != NULL && sscanf(text, "%" SCNd64 " %" SCNd64, &quota, &period) == 2 && quota > 0 &&
        period > 0) {
        const int64_t allowed = (quota + period - 1) / period;
        cores = allowed < cores ? (int32_t)allowed : cores;
    }
    hlm_arena_free(arena);
    return cores;
}

int32_t hlm_profiler_num_cores(int32_t num_ranks)
{
    cpu_set_t cores;
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    int32_t count = process_cores(&cores) ? CPU_COUNT(&cores) : 1;
    count = count < num_ranks ? num_ranks : count;
    count = online > 0 && online < count ? (int32_t)online : count;
    return quota_cores(count);
}

void hlm_profiler_pin(int32_t index)
{
    cpu_set_t cores, one;
    if (!process_cores(&cores) || CPU_COUNT(&cores) == 0) {
        return;
    }
    int32_t left = index % CPU_COUNT(&cores);
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &cores) && left-- == 0) {
            CPU_SET(cpu, &one);
            break;
        }
    }
    if (sched_setaffinity(0, sizeof one, &one) != 0) {
        return;
    }
}

/* The number behind `key` in a text of lines, times `unit`; -1 where there is none. */
static int64_t value_after(const char *text, const char *key, int64_t unit)
{
    const char *at = text == NULL ? NULL : strstr(text, key);
    int64_t value = 0;
    return at != NULL && sscanf(at + strlen(key), "%" SCNd64, &value) == 1 ? value * unit : -1;
}

int64_t hlm_profiler_available_bytes(struct hlm_arena *arena)
{
    int64_t bytes = value_after(read_system(arena, "/proc/meminfo"), "MemAvailable:", 1024);
    const int64_t limit = value_after(read_system(arena, "/sys/fs/cgroup/memory.max"), "", 1);
    const int64_t used = value_after(read_system(arena, "/sys/fs/cgroup/memory.current"), "", 1);
    if (limit >= 0 && used >= 0 && limit > used && (bytes < 0 || limit - used < bytes)) {
        bytes = limit - used;
    }
    return bytes > 0 ? bytes : 0;
}

int64_t hlm_profiler_resident_bytes(struct hlm_arena *arena)
{
    const int64_t bytes = value_after(read_system(arena, "/proc/self/status"), "VmRSS:", 1024);
    return bytes > 0 ? bytes : 0;
}

const char *hlm_profiler_slug(struct hlm_arena *arena, const char *text)
{
    const size_t length = strlen(text);
    char *slug = HLM_ARENA_ARRAY(arena, char, length + 1);
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (isalnum(c)) {
            slug[used++] = (char)tolower(c);
        } else if (used > 0 && slug[used - 1] != '-') {
            slug[used++] = '-';
        }
    }
    while (used > 0 && slug[used - 1] == '-') {
        used--;
    }
    slug[used] = '\0';
    return used > 0 ? slug : "cpu";
}

const char *hlm_profiler_blas(struct hlm_arena *arena)
{
    char *config = hlm_arena_strdup(arena, openblas_get_config());
    for (size_t length = strlen(config); length > 0 && config[length - 1] == ' '; length--) {
        config[length - 1] = '\0';
    }
    return hlm_arena_printf(arena, "%s, kernels %s", config, openblas_get_corename());
}

double hlm_profiler_cpu_pressure(struct hlm_arena *arena)
{
    const char *text = read_system(arena, "/proc/pressure/cpu");
    const char *at = text == NULL ? NULL : strstr(text, "avg10=");
    return at == NULL ? -1.0 : strtod(at + strlen("avg10="), NULL) / 100.0;
}
