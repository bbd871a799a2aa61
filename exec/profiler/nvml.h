/* nvml: what a GPU's management library says while kernels are measured: clocks, power,
 * temperature, and why the device runs slower than it could.
 *
 * The library comes with the driver. It is opened at run time, never linked, and a machine without
 * it is measured all the same: every reading is then unknown. Calling conventions and numbers are
 * those of NVIDIA's NVML API reference (nvml.h of the driver's version 2 interface, stable since
 * CUDA 11): all functions return int (0: success), handles are opaque pointers, clocks come in MHz,
 * power in mW, temperatures in degrees Celsius.
 */
#ifndef HLM_EXEC_NVML_H
#define HLM_EXEC_NVML_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

struct hlm_nvml;

/* Bits of nvmlDeviceGetCurrentClocksThrottleReasons: X(constant, bit, text, whether the device is
 * slower than its clocks allow: an idle device and clocks that somebody set are not). */
#define HLM_NVML_REASON_MAP(X)                                                                     \
    X(IDLE, 0x1, "idle", false)                                                                    \
    X(CLOCK_SETTING, 0x2, "clock setting", false)                                                  \
    X(POWER_CAP, 0x4, "power cap", true)                                                           \
    X(HARDWARE, 0x8, "hardware slowdown", true)                                                    \
    X(SYNC_BOOST, 0x10, "sync boost", true)                                                        \
    X(HEAT, 0x20, "heat", true)                                                                    \
    X(HARDWARE_HEAT, 0x40, "heat (hardware)", true)                                                \
    X(POWER_BRAKE, 0x80, "power brake", true)                                                      \
    X(DISPLAY, 0x100, "display clocks", false)

enum hlm_nvml_reason {
#define X(name, bit, text, slows) HLM_NVML_##name = (bit),
    HLM_NVML_REASON_MAP(X)
#undef X
};

/* One reading; 0 in a number: unknown. */
struct hlm_nvml_state {
    double sm_clock_hz, memory_clock_hz, power_w, temperature_c;
    bool knows_reasons;
    uint64_t reasons; /* enum hlm_nvml_reason, or-ed */
};

/* library: NULL for libnvidia-ml.so.1. pci_bus_id ("00000000:1B:00.0"): which device; NULL or
 * empty: the index-th of the library, which need not be CUDA's index-th. HLM_ENV: no library, or it
 * has no such device; the message says which. */
HLM_MUST_CHECK enum hlm_status hlm_nvml_open(const char *library, const char *pci_bus_id,
                                             int32_t index, struct hlm_nvml **out,
                                             struct hlm_err *err);
void hlm_nvml_close(struct hlm_nvml *nvml); /* NULL accepted */

/* Takes some microseconds to a millisecond. nvml NULL: all unknown. What the device does not tell
 * stays unknown. */
struct hlm_nvml_state hlm_nvml_read(struct hlm_nvml *nvml);

/* "550.54.15"; NULL where unknown. */
const char *hlm_nvml_driver(struct hlm_arena *arena, struct hlm_nvml *nvml);

/* "power cap, heat"; "none" without any; NULL where unknown. only_slowing: of those alone that make
 * the device slower than its clocks allow. */
const char *hlm_nvml_reasons_text(struct hlm_arena *arena, const struct hlm_nvml_state *state,
                                  bool only_slowing);

#endif
