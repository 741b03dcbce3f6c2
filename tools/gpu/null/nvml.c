// An NVML that knows the version of a driver and nothing else.
#include <stdio.h>

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int error) { return "an error of an NVML that does nothing"; }
int nvmlSystemGetDriverVersion(char* version, unsigned room) { return snprintf(version, room, "580.65.06") < 0; }
