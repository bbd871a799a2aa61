/* What all commands do with their answers. */
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"

enum hlm_status hlm_print_text(const char *text, struct hlm_err *err)
{
    if (hlm_file_write("-", text, strlen(text), err) != HLM_OK) {
        err->status = HLM_FAILED;
        return HLM_FAILED;
    }
    return HLM_OK;
}

enum hlm_status hlm_print_json(struct hlm_arena *arena, const struct hlm_json_table *table,
                               const void *object, struct hlm_err *err)
{
    return hlm_print_text(hlm_json_write(arena, table, object, false), err);
}

const char *hlm_cli_date(struct hlm_arena *arena)
{
    const time_t now = time(NULL);
    struct tm utc;
    char text[32];
    if (gmtime_r(&now, &utc) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0) {
        return "unknown";
    }
    return hlm_arena_strdup(arena, text);
}

const char *hlm_cli_host(struct hlm_arena *arena)
{
    char name[256];
    if (gethostname(name, sizeof name) != 0) {
        return "unknown";
    }
    name[sizeof name - 1] = '\0';
    return hlm_arena_strdup(arena, name);
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + 1e-6 * (double)time.tv_usec;
}

double hlm_cli_cpu_seconds(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) {
        return 0.0;
    }
    return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}
