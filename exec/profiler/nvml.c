#include "exec/profiler/nvml.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { CLOCK_SM = 1, CLOCK_MEMORY = 2, SENSOR_GPU = 0, MAX_VERSION_BYTES = 96 };

struct nvml_device; /* opaque to us */

/* X(member, name, older name or NULL, parameters). All return int, 0 for success. */
#define FUNCTION_MAP(X)                                                                            \
    X(init, "nvmlInit_v2", NULL, (void))                                                           \
    X(shutdown, "nvmlShutdown", NULL, (void))                                                      \
    X(by_index, "nvmlDeviceGetHandleByIndex_v2", NULL, (unsigned, struct nvml_device **))          \
    X(by_bus, "nvmlDeviceGetHandleByPciBusId_v2", NULL, (const char *, struct nvml_device **))     \
    X(clock, "nvmlDeviceGetClockInfo", NULL, (struct nvml_device *, int, unsigned *))              \
    X(power, "nvmlDeviceGetPowerUsage", NULL, (struct nvml_device *, unsigned *))                  \
    X(temperature, "nvmlDeviceGetTemperature", NULL, (struct nvml_device *, int, unsigned *))      \
    X(reasons, "nvmlDeviceGetCurrentClocksEventReasons",                                           \
      "nvmlDeviceGetCurrentClocksThrottleReasons", (struct nvml_device *, unsigned long long *))   \
    X(driver, "nvmlSystemGetDriverVersion", NULL, (char *, unsigned))

struct functions {
#define X(member, name, older, parameters) int(*member) parameters;
    FUNCTION_MAP(X)
#undef X
};

struct hlm_nvml {
    void *library;
    bool started;
    struct functions call; /* NULL: the library lacks it */
    struct nvml_device *device;
};

static const struct {
    uint64_t bit;
    const char *text;
    bool slows;
} reason_rows[] = {
#define X(name, bit, text, slows) {(bit), (text), (slows)},
    HLM_NVML_REASON_MAP(X)
#undef X
};
enum { NUM_REASONS = sizeof reason_rows / sizeof reason_rows[0] };

/* ISO C has no conversion from object to function pointers; POSIX has, through memory. */
static void find(void *library, const char *name, const char *older, void *out)
{
    void *symbol = dlsym(library, name);
    if (symbol == NULL && older != NULL) {
        symbol = dlsym(library, older);
    }
    memcpy(out, &symbol, sizeof symbol);
}

static void find_all(struct hlm_nvml *nvml)
{
#define X(member, name, older, parameters) find(nvml->library, name, older, &nvml->call.member);
    FUNCTION_MAP(X)
#undef X
}

static enum hlm_status start(struct hlm_nvml *nvml, const char *name, const char *pci_bus_id,
                             int32_t index, struct hlm_err *err)
{
    nvml->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (nvml->library == NULL) {
        return hlm_fail(err, HLM_ENV, "no management library: %s", dlerror());
    }
    find_all(nvml);
    if (nvml->call.init == NULL || nvml->call.shutdown == NULL || nvml->call.by_index == NULL) {
        return hlm_fail(err, HLM_ENV, "%s lacks functions of NVML's version 2 interface", name);
    }
    const int failure = nvml->call.init();
    if (failure != 0) {
        return hlm_fail(err, HLM_ENV, "%s does not start (NVML error %d)", name, failure);
    }
    nvml->started = true;
    const bool by_bus = pci_bus_id != NULL && pci_bus_id[0] != '\0' && nvml->call.by_bus != NULL;
    const int missing = by_bus ? nvml->call.by_bus(pci_bus_id, &nvml->device)
                               : nvml->call.by_index((unsigned)index, &nvml->device);
    if (missing != 0) {
        return hlm_fail(err, HLM_ENV, "%s knows no device %s (NVML error %d)", name,
                        by_bus ? pci_bus_id : "of this index", missing);
    }
    return HLM_OK;
}

enum hlm_status hlm_nvml_open(const char *library, const char *pci_bus_id, int32_t index,
                              struct hlm_nvml **out, struct hlm_err *err)
{
    const char *name = library == NULL ? "libnvidia-ml.so.1" : library;
    struct hlm_nvml *nvml = calloc(1, sizeof *nvml);
    if (nvml == NULL) {
        return hlm_fail(err, HLM_ENV, "no memory for the management library");
    }
    const enum hlm_status status = start(nvml, name, pci_bus_id, index, err);
    if (status != HLM_OK) {
        hlm_nvml_close(nvml);
        return status;
    }
    *out = nvml;
    return HLM_OK;
}

void hlm_nvml_close(struct hlm_nvml *nvml)
{
    if (nvml == NULL) {
        return;
    }
    if (nvml->started) {
        nvml->call.shutdown();
    }
    if (nvml->library != NULL) {
        dlclose(nvml->library);
    }
    free(nvml);
}

static double read_clock_hz(struct hlm_nvml *nvml, int type)
{
    unsigned mhz = 0;
    const bool known = nvml->call.clock != NULL && nvml->call.clock(nvml->device, type, &mhz) == 0;
    return known ? 1e6 * (double)mhz : 0.0;
}

struct hlm_nvml_state hlm_nvml_read(struct hlm_nvml *nvml)
{
    struct hlm_nvml_state state = {0};
    if (nvml == NULL) {
        return state;
    }
    unsigned milliwatts = 0, degrees = 0;
    unsigned long long reasons = 0;
    state.sm_clock_hz = read_clock_hz(nvml, CLOCK_SM);
    state.memory_clock_hz = read_clock_hz(nvml, CLOCK_MEMORY);
    if (nvml->call.power != NULL && nvml->call.power(nvml->device, &milliwatts) == 0) {
        state.power_w = 1e-3 * (double)milliwatts;
    }
    if (nvml->call.temperature != NULL &&
        nvml->call.temperature(nvml->device, SENSOR_GPU, &degrees) == 0) {
        state.temperature_c = (double)degrees;
    }
    if (nvml->call.reasons != NULL && nvml->call.reasons(nvml->device, &reasons) == 0) {
        state.knows_reasons = true;
        state.reasons = reasons;
    }
    return state;
}

const char *hlm_nvml_driver(struct hlm_arena *arena, struct hlm_nvml *nvml)
{
    char text[MAX_VERSION_BYTES] = "";
    if (nvml == NULL || nvml->call.driver == NULL ||
        nvml->call.driver(text, (unsigned)sizeof text) != 0) {
        return NULL;
    }
    text[sizeof text - 1] = '\0';
    return hlm_arena_strdup(arena, text);
}

const char *hlm_nvml_reasons_text(struct hlm_arena *arena, const struct hlm_nvml_state *state,
                                  bool only_slowing)
{
    if (!state->knows_reasons) {
        return NULL;
    }
    struct hlm_text text;
    hlm_text_init(&text, arena);
    const char *separator = "";
    for (int32_t i = 0; i < NUM_REASONS; i++) {
        if ((state->reasons & reason_rows[i].bit) != 0 && (reason_rows[i].slows || !only_slowing)) {
            hlm_text_printf(&text, "%s%s", separator, reason_rows[i].text);
            separator = ", ";
        }
    }
    return separator[0] == '\0' ? "none" : text.text;
}
