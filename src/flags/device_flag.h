// --device, the same for every command that computes with a model.
#pragma once

#include <c10/core/Device.h>

#include <string>

#include "flags/command.h"

namespace trestle {

struct DeviceFlag {
  std::string name = "auto";

  void add_to(Command command);
  /// Throws as chosen_device() does.
  at::Device choose() const;
  /// The same; a line on stderr says which, where there was a choice.
  at::Device choose_and_tell() const;
};

}  // namespace trestle
