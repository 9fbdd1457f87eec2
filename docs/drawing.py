# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures drawn from the tables of the code, in plain text."""

from public import public


@public
def diagram(moves):
    """Draw a table of moves: a line for each state, an arrow for each move.

    :param moves: For each state the events that it knows, and for each event
        the next state.
    :return: The picture.
    """
    left = 1 + max(len(event) for events in moves.values() for event in events)
    places, at = {}, left
    for state in moves:
        places[state] = at + len(state) // 2
        at += len(state) + 1
    lines = [' ' * left + ' '.join(moves)]
    for state, events in moves.items():
        for event, after in events.items():
            line = list(event.ljust(left))
            for place in places.values():
                line += ' ' * (place - len(line)) + '|'
            here, there = places[state], places[after]
            for place in range(min(here, there), max(here, there)):
                line[place] = '-'
            line[here] = 'o'
            line[there] = '>' if here < there else '<'
            lines.append(''.join(line))
    return '\n'.join(lines)
