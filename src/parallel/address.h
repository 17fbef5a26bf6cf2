// By which of its addresses this machine reaches another. Called by World.
#pragma once

#include <string>

namespace trestle {

/// The address, in digits, of the interface that leads to host:port; nothing is sent. Empty where
/// the host has no address, nothing leads there, or what does is the loopback.
std::string address_towards(const std::string& host, int port);

}  // namespace trestle
