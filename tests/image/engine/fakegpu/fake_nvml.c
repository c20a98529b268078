/* A fake libnvidia-ml.so.1: the calls that discover GPUs, for as many as /etc/fake-nvml.conf says ("count=8"), and none
   without that file. Every GPU is a free H100 unless the file says otherwise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, MOST = 64, STRANGER = 4242 };

typedef struct { unsigned index; } *Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;

static struct { unsigned index; } devices[MOST];
static unsigned count;
static unsigned long long total = 80ull << 30, used = 512ull << 20;
static int cuda = 13000;

static void set(const char *name, const char *value) {
  if (!strcmp(name, "count")) count = (unsigned)atoi(value);
  if (!strcmp(name, "total_mib")) total = (unsigned long long)atoll(value) << 20;
  if (!strcmp(name, "used_mib")) used = (unsigned long long)atoll(value) << 20;
  if (!strcmp(name, "cuda")) cuda = atoi(value);
}

int nvmlInit_v2(void) {
  char line[128];
  FILE *file = fopen("/etc/fake-nvml.conf", "r");
  while (file && fgets(line, sizeof line, file)) {
    char *value = strchr(line, '=');
    if (value) { *value++ = 0; set(line, value); }
  }
  if (file) fclose(file);
  if (count > MOST) count = MOST;
  for (unsigned i = 0; i < MOST; i++) devices[i].index = i;
  return OK;
}
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code ? "a fake error" : "Success"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "580.65.06"); return OK; }
int nvmlSystemGetNVMLVersion(char *text, unsigned length) { snprintf(text, length, "13.580.65.06"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = cuda; return OK; }
int nvmlSystemGetCudaDriverVersion(int *version) { *version = cuda; return OK; }

int nvmlDeviceGetCount_v2(unsigned *number) { *number = count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
  if (index >= count) return INVALID_ARGUMENT;
  *device = (Device)&devices[index];
  return OK;
}
static void uuid(unsigned index, char *text, unsigned length) {
  snprintf(text, length, "GPU-00000000-0000-0000-0000-%012u", index);
}
int nvmlDeviceGetHandleByUUID(const char *wanted, Device *device) {
  char text[64];
  for (unsigned i = 0; i < count; i++) {
    uuid(i, text, sizeof text);
    if (!strcmp(text, wanted)) return nvmlDeviceGetHandleByIndex_v2(i, device);
  }
  return NOT_FOUND;
}
int nvmlDeviceGetIndex(Device device, unsigned *index) { *index = device->index; return OK; }
int nvmlDeviceGetUUID(Device device, char *text, unsigned length) { uuid(device->index, text, length); return OK; }
int nvmlDeviceGetName(Device device, char *text, unsigned length) {
  (void)device;
  snprintf(text, length, "NVIDIA H100 80GB HBM3 (fake)");
  return OK;
}
int nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
  (void)device;
  memory->total = total; memory->used = used; memory->free = total - used;
  return OK;
}
int nvmlDeviceGetMemoryInfo_v2(Device device, Memory2 *memory) {
  (void)device;
  memory->total = total; memory->used = used; memory->free = total - used; memory->reserved = 0;
  return OK;
}
/* Whatever a GPU holds beyond the driver's own belongs to one process. */
int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *number, Process *processes) {
  unsigned there = used > (1ull << 30), room = *number;
  (void)device;
  *number = there;
  if (room < there) return INSUFFICIENT_SIZE;
  if (there) processes[0] = (Process){STRANGER, used, 0xFFFFFFFF, 0xFFFFFFFF};
  return OK;
}
int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length) {
  if (pid != STRANGER) return NOT_FOUND;
  snprintf(name, length, "/usr/bin/stranger");
  return OK;
}
int nvmlDeviceGetCudaComputeCapability(Device device, int *major, int *minor) { (void)device; *major = 9; *minor = 0; return OK; }
int nvmlDeviceGetUtilizationRates(Device device, Utilization *rates) { (void)device; rates->gpu = 7; rates->memory = 3; return OK; }
int nvmlDeviceGetTemperature(Device device, int sensor, unsigned *degrees) { (void)device; (void)sensor; *degrees = 41; return OK; }
int nvmlDeviceGetPowerUsage(Device device, unsigned *milliwatts) { (void)device; *milliwatts = 123000; return OK; }
int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending) { (void)device; *current = *pending = 0; return OK; }
