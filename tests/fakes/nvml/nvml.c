/* A stand-in for libnvidia-ml.so.1: what the GPU inventory asks. Its shape comes from the environment:
 *
 *   FAKE_NVML_COUNT         number of GPUs
 *   FAKE_NVML_TOTAL_MIB     memory of each GPU; one number, or one per GPU: "81920,24576"
 *   FAKE_NVML_USED_MIB      memory in use; the same form
 *   FAKE_NVML_NAME          name of every GPU
 *   FAKE_NVML_CAPABILITY    compute capability: "9.0"
 *   FAKE_NVML_MIG           1 where MIG is on; one number, or one per GPU; -1: knows no MIG
 *   FAKE_NVML_INSTANCES     memory of the MIG instances of each GPU with MIG: "20480,10240"; 0: a gap in their numbers
 *   FAKE_NVML_INIT_ERROR    error code of nvmlInit
 *   FAKE_NVML_COUNT_ERROR   error code of nvmlDeviceGetCount
 *   FAKE_NVML_VERSION_ERROR error code of the versions of driver and CUDA
 *   FAKE_NVML_MEMORY_ERROR  error code of the memory of every GPU
 *   FAKE_NVML_PROCESSES     who computes where: "GPU:PID:MIB:NAME GPU:PID:MIB:NAME"; -1 MiB: the driver does not tell;
 *                           GPU 100 is the first MIG instance of GPU 0
 *   FAKE_NVML_DRIVER        version of the driver: "580.65.06"
 *   FAKE_NVML_CUDA          newest CUDA that it runs: 13000
 *   FAKE_NVML_FOLDER        what processes hold besides FAKE_NVML_USED_MIB: files with lines "GPU PID MIB RELEASE_MS KEPT_MIB".
 *                           When the process has ended, all but KEPT_MIB is given back over RELEASE_MS. PID 0 never ends.
 *                           A file "PID-TICKS" is of the process that began TICKS after the boot, and of no later one
 *   FAKE_NVML_BROKEN        index of a GPU that answers with FAKE_NVML_BROKEN_ERROR
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, GPU_IS_LOST = 15, MOST = 64 };

typedef struct { unsigned index; int instance; } Device; /* instance: -1 for the whole GPU */
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;

static Device devices[MOST], instances[MOST][7];

static long long number(const char *name, long long otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtoll(value, NULL, 10) : otherwise;
}

/* The index-th number of a list; the last one counts for all that follow. */
static long long listed(const char *name, unsigned index, long long otherwise) {
    const char *value = getenv(name);
    if (!value || !*value) return otherwise;
    while (index-- > 0 && strchr(value, ',')) value = strchr(value, ',') + 1;
    return strtoll(value, NULL, 10);
}

static unsigned count(void) {
    long long wanted = number("FAKE_NVML_COUNT", 1);
    return wanted > MOST ? MOST : (unsigned)wanted;
}

static void uuid_of(unsigned index, char *buffer, unsigned size) {
    snprintf(buffer, size, "GPU-%08u-0000-0000-0000-000000000000", index);
}

static unsigned long long total_of(Device *device) {
    return (unsigned long long)listed("FAKE_NVML_TOTAL_MIB", device->index, 81920) << 20;
}

/* A zombie has given its memory back, as under the real driver. `began`: clock ticks; 0: of any process of that id. */
static int is_alive(int pid, unsigned long long began) {
    char path[64], state = 'Z';
    unsigned long long found = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    const char *fields = "%*d (%*[^)]) %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu";
    if (fscanf(file, fields, &state, &found) != 2) state = 'Z';
    fclose(file);
    return state != 'Z' && state != 'X' && (!began || found == began);
}

/* Milliseconds since a process was first found to have ended: a file remembers that, for all who ask. */
static double ended_ms(const char *path) {
    char mark[4096];
    struct stat info;
    struct timespec now;
    snprintf(mark, sizeof mark, "%s.ended", path);
    int made = open(mark, O_CREAT | O_EXCL | O_WRONLY, 0644);
    if (made >= 0) close(made);
    if (stat(mark, &info)) return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    return (now.tv_sec - info.st_mtim.tv_sec) * 1e3 + (now.tv_nsec - info.st_mtim.tv_nsec) / 1e6;
}

static long long held_mib(unsigned gpu) {
    const char *folder = getenv("FAKE_NVML_FOLDER");
    DIR *opened = folder && *folder ? opendir(folder) : NULL;
    long long sum = 0;
    struct dirent *entry;
    while (opened && (entry = readdir(opened))) {
        char path[2048];
        unsigned on;
        int pid, release_ms;
        long long mib, kept;
        unsigned long long began = 0;
        if (strchr(entry->d_name, '.')) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        sscanf(entry->d_name, "%*d-%llu", &began);
        FILE *file = fopen(path, "r");
        while (file && fscanf(file, "%u %d %lld %d %lld", &on, &pid, &mib, &release_ms, &kept) == 5) {
            if (on != gpu) continue;
            if (pid && !is_alive(pid, began)) {
                double left = release_ms ? 1 - ended_ms(path) / release_ms : 0;
                mib = (kept < mib ? kept : mib) + (left > 0 && mib > kept ? (long long)((mib - kept) * left) : 0);
            }
            sum += mib;
        }
        if (file) fclose(file);
    }
    if (opened) closedir(opened);
    return sum;
}

static unsigned long long used_of(Device *device) {
    return (unsigned long long)(listed("FAKE_NVML_USED_MIB", device->index, 512) + held_mib(device->index)) << 20;
}

static unsigned long long instance_total(Device *device) {
    const char *value = getenv("FAKE_NVML_INSTANCES");
    for (int skipped = 0; value && skipped < device->instance; skipped++) {
        value = strchr(value, ',');
        if (value) value++;
    }
    return value ? strtoull(value, NULL, 10) << 20 : 0;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    for (unsigned index = 0; index < MOST; index++) {
        devices[index] = (Device){index, -1};
        for (int number = 0; number < 7; number++) instances[index][number] = (Device){index, number};
    }
    return (int)number("FAKE_NVML_INIT_ERROR", SUCCESS);
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code ? "fake error" : "Success"; }

int nvmlSystemGetDriverVersion(char *buffer, unsigned size) {
    const char *version = getenv("FAKE_NVML_DRIVER");
    snprintf(buffer, size, "%s", version && *version ? version : "580.65.06");
    return (int)number("FAKE_NVML_VERSION_ERROR", SUCCESS);
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = (int)number("FAKE_NVML_CUDA", 13000);
    return (int)number("FAKE_NVML_VERSION_ERROR", SUCCESS);
}

int nvmlDeviceGetCount_v2(unsigned *found) {
    *found = count();
    return (int)number("FAKE_NVML_COUNT_ERROR", SUCCESS);
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index >= count()) return INVALID_ARGUMENT;
    if (number("FAKE_NVML_BROKEN", -1) == (long long)index) return (int)number("FAKE_NVML_BROKEN_ERROR", GPU_IS_LOST);
    *device = &devices[index];
    return SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    for (unsigned index = 0; index < count(); index++) {
        char known[96];
        uuid_of(index, known, sizeof known);
        if (!strcmp(known, uuid)) return nvmlDeviceGetHandleByIndex_v2(index, device);
    }
    return NOT_FOUND;
}
int nvmlDeviceGetIndex(Device *device, unsigned *index) {
    *index = device->index;
    return SUCCESS;
}
int nvmlDeviceGetUUID(Device *device, char *buffer, unsigned size) {
    uuid_of(device->index, buffer, size);
    if (device->instance >= 0) snprintf(buffer, size, "MIG-%08u-0000-0000-0000-%012d", device->index, device->instance);
    return SUCCESS;
}
int nvmlDeviceGetName(Device *device, char *buffer, unsigned size) {
    const char *name = getenv("FAKE_NVML_NAME");
    snprintf(buffer, size, "%s", name ? name : "NVIDIA Fake 80GB");
    if (device->instance >= 0) strncat(buffer, " MIG", size - strlen(buffer) - 1);
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    memory->total = total_of(device);
    memory->used = used_of(device);
    if (device->instance >= 0) *memory = (Memory){instance_total(device), instance_total(device), 0};
    memory->free = memory->total - memory->used;
    return device->instance >= 0 ? SUCCESS : (int)number("FAKE_NVML_MEMORY_ERROR", SUCCESS);
}
int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory2 *memory) {
    memory->total = total_of(device);
    memory->used = used_of(device);
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return (int)number("FAKE_NVML_MEMORY_ERROR", SUCCESS);
}
int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    const char *value = getenv("FAKE_NVML_CAPABILITY");
    (void)device;
    return sscanf(value ? value : "9.0", "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    long long mode = listed("FAKE_NVML_MIG", device->index, 0);
    *current = *pending = mode > 0;
    return mode < 0 ? NOT_SUPPORTED : SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *most) {
    (void)device;
    *most = 7;
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned number, Device **instance) {
    if (number >= 7 || !instance_total(&instances[device->index][number])) return NOT_FOUND;
    *instance = &instances[device->index][number];
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    if (device->instance >= 0) return NOT_SUPPORTED;
    rates->gpu = 7;
    rates->memory = 3;
    return SUCCESS;
}

/* The next of the listed processes; NULL after the last. */
static const char *process(const char *at, unsigned *gpu, Process *one, char name[256]) {
    long long mib;
    int used = 0;
    name[0] = 0;
    memset(one, 0, sizeof *one);
    while (*at == ' ') at++;
    if (sscanf(at, "%u:%u:%lld:%n", gpu, &one->pid, &mib, &used) != 3 || !used) return NULL;
    one->used = mib < 0 ? ~0ULL : (unsigned long long)mib << 20;
    sscanf(at + used, "%255[^ ]", name);
    return at + used + strcspn(at + used, " ");
}
int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *found, Process *infos) {
    const char *at = getenv("FAKE_NVML_PROCESSES");
    unsigned room = infos ? *found : 0, count = 0, gpu;
    char name[256];
    Process one;
    while (at && (at = process(at, &gpu, &one, name))) {
        if (gpu != (device->instance < 0 ? device->index : 100 * (device->index + 1) + (unsigned)device->instance)) continue;
        if (count < room) infos[count] = one;
        count++;
    }
    *found = count;
    return count > room ? TOO_SMALL : SUCCESS;
}
int nvmlSystemGetProcessName(unsigned pid, char *buffer, unsigned size) {
    const char *at = getenv("FAKE_NVML_PROCESSES");
    unsigned gpu;
    char name[256];
    Process one;
    while (at && (at = process(at, &gpu, &one, name))) {
        if (one.pid != pid || !name[0]) continue;
        snprintf(buffer, size, "%s", name);
        return SUCCESS;
    }
    return NOT_FOUND;
}
