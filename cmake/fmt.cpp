// fmt's functions, compiled once. libtorch ships the headers of a newer fmt than the system has and
// no library for them; header-only, every source file would compile the whole of fmt again, which
// takes longer than its own code.
#include <fmt/format-inl.h>

template auto fmt::detail::thousands_sep_impl<char>(fmt::locale_ref)
    -> fmt::detail::thousands_sep_result<char>;
template auto fmt::detail::decimal_point_impl(fmt::locale_ref) -> char;
