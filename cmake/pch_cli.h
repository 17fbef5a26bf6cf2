// What nearly every command needs.
#pragma once

#include <CLI/CLI.hpp>

#include "pch_modules.h"
