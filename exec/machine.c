#include "exec/machine.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

int32_t hlm_machine_num_cores(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
        return (int32_t)CPU_COUNT(&allowed);
    }
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int32_t)online : 1;
}

bool hlm_machine_pin(int32_t index)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
        return false;
    }
    CPU_ZERO(&one);
    for (int32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET((size_t)cpu, &allowed) && index-- == 0) {
            CPU_SET((size_t)cpu, &one);
            return sched_setaffinity(0, sizeof(one), &one) == 0;
        }
    }
    return false;
}

/* The value of the first "model name" line of /proc/cpuinfo; the machine type where there is none.
 */
static const char *cpu_model(struct hlm_arena *arena, const struct utsname *system)
{
    char line[512];
    const char *model = NULL;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && model == NULL && fgets(line, sizeof(line), file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            line[strcspn(line, "\n")] = '\0';
            model = hlm_arena_strdup(arena, colon + 1 + strspn(colon + 1, " "));
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return model != NULL ? model : hlm_arena_strdup(arena, system->machine);
}

struct hlm_measured_machine hlm_machine_describe(struct hlm_arena *arena, int32_t num_cores,
                                                 const char *backend_library)
{
    struct utsname system = {0};
    if (uname(&system) != 0) {
        snprintf(system.nodename, sizeof(system.nodename), "unknown");
    }
    return (struct hlm_measured_machine){.host = hlm_arena_strdup(arena, system.nodename),
                                         .cpu_model = cpu_model(arena, &system),
                                         .kernel = hlm_arena_strdup(arena, system.release),
                                         .num_cores = num_cores,
                                         .backend_library = backend_library};
}

const char *hlm_machine_date(struct hlm_arena *arena)
{
    const time_t now = time(NULL);
    struct tm day = {0};
    char text[16] = "";
    if (gmtime_r(&now, &day) != NULL) {
        strftime(text, sizeof(text), "%Y-%m-%d", &day);
    }
    return hlm_arena_strdup(arena, text);
}
