#include "flags/device_flag.h"

#include <fmt/format.h>

#include "kernels/device.h"

namespace trestle {

void DeviceFlag::add_to(Command command) {
  command
      .add("--device", name,
           "where it computes: auto (the first card of a CUDA build, else the CPU), cpu, cuda or "
           "cuda:N")
      .show_default();
}

at::Device DeviceFlag::choose() const { return chosen_device(name, "--device " + name); }

at::Device DeviceFlag::choose_and_tell() const {
  const at::Device device = choose();
  const std::string line = describe_device(device, name);
  if (!line.empty()) fmt::print(stderr, "on {}\n", line);
  return device;
}

}  // namespace trestle
