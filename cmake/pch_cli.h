// What nearly every command needs.
#pragma once

#include "pch_modules.h"

#include <CLI/CLI.hpp>
