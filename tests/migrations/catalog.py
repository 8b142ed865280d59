"""Everything the server knows about a database, in a form that two databases can be compared in.

Names instead of ids, privileges spelt out (a missing list of privileges and the default it stands for are the
same), order by name. The schemas of the system and of yoyo's bookkeeping are left out, all others are in.
"""

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg

Catalog = dict[str, list[dict[str, Any]]]

_OURS: LiteralString = "n.nspname !~ '^(pg_|information_schema$|farebox_migrations$)'"


def _acl(acl: LiteralString, kind: LiteralString, owner: LiteralString) -> LiteralString:
    """The privileges as sorted texts ``grantee=PRIVILEGE[*]/grantor``."""
    return f"""(
      select coalesce(array_agg(item order by item), '{{}}') from (
        select format('%s=%s%s/%s',
                      case x.grantee when 0 then 'PUBLIC' else x.grantee::regrole::text end,
                      x.privilege_type, case when x.is_grantable then '*' else '' end,
                      x.grantor::regrole) as item
        from aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))) as x) as items)"""


_QUERIES: dict[str, LiteralString] = {
    "schemas": f"""
        select n.nspname, n.nspowner::regrole::text as owner, {_acl("n.nspacl", "n", "n.nspowner")} as acl,
               obj_description(n.oid, 'pg_namespace') as comment
        from pg_namespace n where {_OURS} order by n.nspname""",
    "relations": f"""
        select c.oid::regclass::text as name, c.relkind, c.relowner::regrole::text as owner, c.relpersistence,
               {_acl("c.relacl", "r", "c.relowner")} as acl,
               (select amname from pg_am where oid = c.relam) as am,
               (select array_agg(o order by o) from unnest(c.reloptions) o) as options,
               (select array_agg(o order by o) from unnest(t.reloptions) o) as toast_options,
               c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.reltablespace, c.relispartition,
               obj_description(c.oid, 'pg_class') as comment,
               case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end as view
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        left join pg_class t on t.oid = c.reltoastrelid
        where {_OURS} and c.relkind <> 'i' order by 1""",
    "columns": f"""
        select c.oid::regclass::text as relation, a.attname,
               row_number() over (partition by c.oid order by a.attnum) as position,
               format_type(a.atttypid, a.atttypmod) as type, a.attnotnull, a.attidentity, a.attgenerated,
               a.attstorage, a.attcompression, nullif(a.attstattarget, -1) as statistics, a.attoptions,
               pg_get_expr(d.adbin, d.adrelid) as expression, a.attcollation::regcollation::text as collation,
               {_acl("a.attacl", "c", "c.relowner")} as acl, col_description(c.oid, a.attnum) as comment
        from pg_attribute a join pg_class c on c.oid = a.attrelid
        join pg_namespace n on n.oid = c.relnamespace
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where {_OURS} and a.attnum > 0 and not a.attisdropped order by 1, 3""",
    "constraints": f"""
        select coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text) as owner, k.conname,
               pg_get_constraintdef(k.oid) as definition, k.convalidated, k.condeferrable, k.connoinherit,
               k.conindid::regclass::text as index, obj_description(k.oid, 'pg_constraint') as comment
        from pg_constraint k join pg_namespace n on n.oid = k.connamespace where {_OURS} order by 1, 2""",
    "indexes": f"""
        select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition,
               i.indisunique, i.indisprimary, i.indisvalid, i.indisclustered, i.indisreplident,
               (select array_agg(o order by o) from unnest(c.reloptions) o) as options,
               obj_description(c.oid, 'pg_class') as comment
        from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
        where {_OURS} order by 1""",
    "functions": f"""
        select p.oid::regprocedure::text as name, p.prokind, p.proowner::regrole::text as owner,
               {_acl("p.proacl", "f", "p.proowner")} as acl, p.proconfig,
               p.prosecdef, p.provolatile, p.proparallel,
               case when p.prokind in ('f', 'p') then pg_get_functiondef(p.oid) end as definition,
               obj_description(p.oid, 'pg_proc') as comment
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_OURS} order by 1""",
    "types": f"""
        select t.oid::regtype::text as name, t.typtype, t.typowner::regrole::text as owner,
               {_acl("t.typacl", "T", "t.typowner")} as acl, t.typnotnull, t.typdefault,
               t.typbasetype::regtype::text as base,
               (select array_agg(e.enumlabel order by e.enumsortorder)
                from pg_enum e where e.enumtypid = t.oid) as labels,
               obj_description(t.oid, 'pg_type') as comment
        from pg_type t join pg_namespace n on n.oid = t.typnamespace where {_OURS} order by 1""",
    "triggers": f"""
        select g.tgrelid::regclass::text as relation, g.tgname, pg_get_triggerdef(g.oid) as definition,
               g.tgenabled, obj_description(g.oid, 'pg_trigger') as comment
        from pg_trigger g join pg_class c on c.oid = g.tgrelid join pg_namespace n on n.oid = c.relnamespace
        where {_OURS} and not g.tgisinternal order by 1, 2""",
    "policies": f"""
        select p.polrelid::regclass::text as relation, p.polname, p.polcmd, p.polpermissive,
               array(select case r when 0 then 'PUBLIC' else r::regrole::text end
                     from unnest(p.polroles) r order by 1) as roles,
               pg_get_expr(p.polqual, p.polrelid) as using,
               pg_get_expr(p.polwithcheck, p.polrelid) as "check",
               obj_description(p.oid, 'pg_policy') as comment
        from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
        where {_OURS} order by 1, 2""",
    "rules and statistics": f"""
        select pg_get_ruledef(r.oid) as definition from pg_rewrite r join pg_class c on c.oid = r.ev_class
        join pg_namespace n on n.oid = c.relnamespace where {_OURS}
        union all
        select pg_get_statisticsobjdef(s.oid) from pg_statistic_ext s
        join pg_namespace n on n.oid = s.stxnamespace where {_OURS}
        order by 1""",
    "sequences": f"""
        select to_jsonb(s) - 'last_value' as sequence from pg_sequences s
        join pg_namespace n on n.nspname = s.schemaname where {_OURS}
        order by s.schemaname, s.sequencename""",
    "default privileges": """
        select d.defaclrole::regrole::text as owner, d.defaclobjtype, n.nspname,
               (select array_agg(item::text order by item::text) from unnest(d.defaclacl) item) as acl
        from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace order by 1, 2, 3""",
    "extensions, publications, event triggers": """
        select 'extension' as kind, extname::text as name from pg_extension
        union all select 'publication', pubname from pg_publication
        union all select 'event trigger', evtname from pg_event_trigger order by 1, 2""",
    "database": f"""
        select d.datdba::regrole::text as owner, {_acl("d.datacl", "d", "d.datdba")} as acl,
               (select jsonb_agg(jsonb_build_array(s.setrole::regrole, s.setconfig)
                                 order by s.setrole::regrole::text)
                from pg_db_role_setting s where s.setdatabase = d.oid) as settings
        from pg_database d where d.datname = current_database()""",
}

_ROLES: LiteralString = """
    select r.rolname, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin,
           r.rolreplication, r.rolbypassrls, r.rolconnlimit, r.rolconfig,
           shobj_description(r.oid, 'pg_authid') as comment,
           array(select (to_jsonb(m) - 'oid' - 'roleid' - 'member' - 'grantor')::text
                        || m.member::regrole || '/' || m.grantor::regrole
                 from pg_auth_members m where m.roleid = r.oid order by 1) as members
    from pg_roles r where r.rolname !~ '^pg_' order by r.rolname"""


def database_catalog(conn: psycopg.Connection[Any]) -> Catalog:
    """All objects of the database, by kind."""
    # With an empty path every name is printed with its schema.
    conn.execute("set search_path = ''")
    try:
        return {kind: list(_rows(conn, query)) for kind, query in _QUERIES.items()}
    finally:
        conn.execute("reset search_path")


def role_catalog(conn: psycopg.Connection[Any]) -> Catalog:
    """All roles of the cluster, with their members."""
    return {"roles": list(_rows(conn, _ROLES))}


def _rows(conn: psycopg.Connection[Any], query: LiteralString) -> Iterator[dict[str, Any]]:
    cursor = conn.execute(query)
    names = [column.name for column in cursor.description or ()]
    return (dict(zip(names, row, strict=True)) for row in cursor)
