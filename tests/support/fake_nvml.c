/* A management library with one device, whose readings a test sets: what exec/profiler/nvml.h opens
 * in place of the driver's. The older name of the reasons is missing, as in later drivers. */
#include <stdio.h>
#include <string.h>

struct nvml_device {
    unsigned sm_mhz, memory_mhz, milliwatts, degrees;
    unsigned long long reasons;
};

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct nvml_device **out);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, struct nvml_device **out);
int nvmlDeviceGetClockInfo(struct nvml_device *device, int type, unsigned *out);
int nvmlDeviceGetPowerUsage(struct nvml_device *device, unsigned *out);
int nvmlDeviceGetTemperature(struct nvml_device *device, int sensor, unsigned *out);
int nvmlDeviceGetCurrentClocksEventReasons(struct nvml_device *device, unsigned long long *out);
int nvmlSystemGetDriverVersion(char *out, unsigned length);
void fake_nvml_set(const struct nvml_device *state);
int fake_nvml_num_open(void);

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6 };

/* The state of the stand-in, which its test owns. */
static struct nvml_device only_device;
static int num_open;

void fake_nvml_set(const struct nvml_device *state)
{
    only_device = *state;
}

int fake_nvml_num_open(void)
{
    return num_open;
}

int nvmlInit_v2(void)
{
    num_open++;
    return 0;
}

int nvmlShutdown(void)
{
    num_open--;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct nvml_device **out)
{
    *out = &only_device;
    return index == 0 ? 0 : NOT_FOUND;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, struct nvml_device **out)
{
    *out = &only_device;
    return strcmp(bus, "00000000:1B:00.0") == 0 ? 0 : NOT_FOUND;
}

/* A clock of 0 stands for one that the device does not tell. */
int nvmlDeviceGetClockInfo(struct nvml_device *device, int type, unsigned *out)
{
    *out = type == 1 ? device->sm_mhz : device->memory_mhz;
    return *out > 0 ? 0 : NOT_SUPPORTED;
}

int nvmlDeviceGetPowerUsage(struct nvml_device *device, unsigned *out)
{
    *out = device->milliwatts;
    return 0;
}

int nvmlDeviceGetTemperature(struct nvml_device *device, int sensor, unsigned *out)
{
    *out = device->degrees;
    return sensor == 0 ? 0 : NOT_SUPPORTED;
}

int nvmlDeviceGetCurrentClocksEventReasons(struct nvml_device *device, unsigned long long *out)
{
    *out = device->reasons;
    return 0;
}

int nvmlSystemGetDriverVersion(char *out, unsigned length)
{
    return snprintf(out, length, "550.54.15") > 0 ? 0 : NOT_SUPPORTED;
}
